// The training of neural_compression.py in C++ with OpenMP, for benchmark.py to compare with.
//
//     g++ -O3 -march=native -ffast-math -fopenmp -DTILE=128 training.cpp -o training
//     ./training PIXELS LATENT_DIM PATCHES EPOCHS < numbers
//
// reads targets (PATCHES, PIXELS) and codes (PATCHES, LATENT_DIM), float32, and prints
// milliseconds per epoch, without the first tenth of the epochs, and the last loss. PIXELS has
// to be a multiple of TILE. Names and order are those of the Python file, which explains them.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>

constexpr int T = TILE;  // pixels of a tile, which the compiler knows
constexpr float tiny = 1e-12f;
using Array = std::vector<float>;

// One step for the pixels of one tile and the patches from first to last - 1.
void step_piece(int first, int last, int patches, int rows, bool alone, const float* codes,
                const float* target, const float* weights, float* moment, float* square,
                float* sums, float* step, float rate, float beta) {
    const int bias = rows - 1;
    float logits[T], delta[T], scale[T];
    for (int p = 0; p < T; p++) square[p] *= beta;
    for (int i = first; i < last; i++) {
        const float* code = codes + (size_t)i * rows;
        for (int p = 0; p < T; p++) logits[p] = weights[bias * T + p];
        for (int k = 0; k < bias; k++)
            for (int p = 0; p < T; p++) logits[p] += code[k] * weights[k * T + p];
        float loss = 0;
        for (int p = 0; p < T; p++) {
            float z = std::max(-18.0f, std::min(18.0f, logits[p]));
            float output = 1 / (1 + std::exp(-z));
            float error = output - target[(size_t)i * T + p];
            loss += error * error;
            delta[p] = error * output * (1 - output);
            moment[(size_t)i * T + p] = beta * moment[(size_t)i * T + p] + delta[p];
            square[p] += delta[p] * delta[p];
        }
        sums[(size_t)i * rows + bias] = loss;
        for (int k = 0; k < bias; k++) {
            float gradient = 0;
            for (int p = 0; p < T; p++) gradient += weights[k * T + p] * delta[p];
            sums[(size_t)i * rows + k] = gradient;
        }
    }
    for (int p = 0; p < T; p++) scale[p] = alone ? rate / (std::sqrt(square[p]) + tiny) : 1;
    for (int i = first; i < last; i++) {
        const float* code = codes + (size_t)i * rows;
        for (int p = 0; p < T; p++) delta[p] = scale[p] * moment[(size_t)i * T + p];
        for (int k = 0; k < rows; k++)
            for (int p = 0; p < T; p++) step[k * T + p] -= code[k] * delta[p];
    }
}

int main(int count, char** argument) {
    if (count != 5) return 2;
    const int pixels = atoi(argument[1]), latent_dim = atoi(argument[2]);
    const int patches = atoi(argument[3]), epochs = atoi(argument[4]);
    const int rows = latent_dim + 1, tiles = pixels / T;
    if (pixels % T != 0 || epochs < 1) return 2;
    const int groups = std::max(1, std::min((16 + tiles - 1) / tiles, patches / 64));
    const size_t size = (size_t)rows * T;  // numbers of the decoder per tile

    Array targets((size_t)tiles * patches * T), codes((size_t)patches * rows, 1.0f);
    Array line(std::max(pixels, latent_dim));
    for (int i = 0; i < patches; i++) {
        if (fread(line.data(), sizeof(float), pixels, stdin) != (size_t)pixels) return 2;
        for (int p = 0; p < pixels; p++)
            targets[((size_t)(p / T) * patches + i) * T + p % T] = line[p];
    }
    for (int i = 0; i < patches; i++)
        if (fread(&codes[(size_t)i * rows], sizeof(float), latent_dim, stdin) != (size_t)latent_dim)
            return 2;

    Array decoder(tiles * size), steps(groups > 1 ? groups * tiles * size : 0);
    Array moments((size_t)tiles * patches * T), squares((size_t)tiles * groups * T);
    Array sums((size_t)tiles * patches * rows), total((size_t)patches * rows);
    Array code_moments((size_t)patches * latent_dim), code_squares(patches);
    double weight = 0, loss = 0;
    auto began = std::chrono::steady_clock::now();
    const int uncounted = epochs / 10;
    for (int epoch = 0; epoch < epochs; epoch++) {
        if (epoch == uncounted) began = std::chrono::steady_clock::now();
        const double decay = (1 + std::cos(M_PI * epoch / epochs)) / 2;
        const float beta = 0.95 - (0.95 - 0.80) * decay;
        weight = beta * weight + 1;
        const double now = decay / std::sqrt(weight);
        const float rate = now / std::sqrt((double)latent_dim * std::max(latent_dim, patches));
        const float code_rate = 0.01 * now;

        #pragma omp parallel for schedule(static)
        for (int piece = 0; piece < tiles * groups; piece++) {
            const int tile = piece / groups, group = piece % groups;
            const int first = (long)group * patches / groups;
            const int last = (long)(group + 1) * patches / groups;
            float* weights = &decoder[tile * size];
            float* step = groups > 1 ? &steps[(group * (size_t)tiles + tile) * size] : weights;
            step_piece(first, last, patches, rows, groups == 1, codes.data(),
                       &targets[(size_t)tile * patches * T], weights,
                       &moments[(size_t)tile * patches * T], &squares[(size_t)piece * T],
                       &sums[(size_t)tile * patches * rows], step, rate, beta);
        }
        for (int tile = 0; groups > 1 && tile < tiles; tile++) {  // the groups' steps, scaled
            float scale[T] = {};
            for (int group = 0; group < groups; group++)
                for (int p = 0; p < T; p++) scale[p] += squares[(tile * groups + group) * T + p];
            for (int p = 0; p < T; p++) scale[p] = rate / (std::sqrt(scale[p]) + tiny);
            for (int group = 0; group < groups; group++) {
                float* step = &steps[(group * (size_t)tiles + tile) * size];
                for (int k = 0; k < rows; k++)
                    for (int p = 0; p < T; p++) {
                        decoder[tile * size + k * T + p] += scale[p] * step[k * T + p];
                        step[k * T + p] = 0;
                    }
            }
        }
        std::fill(total.begin(), total.end(), 0.0f);
        for (int tile = 0; tile < tiles; tile++)
            for (size_t n = 0; n < total.size(); n++) total[n] += sums[tile * total.size() + n];
        loss = 0;
        for (int i = 0; i < patches; i++) {
            const float* gradient = &total[(size_t)i * rows];
            float* momentum = &code_moments[(size_t)i * latent_dim];
            float mean = 0;
            for (int k = 0; k < latent_dim; k++) {
                momentum[k] = beta * momentum[k] + gradient[k];
                mean += gradient[k] * gradient[k] / latent_dim;
            }
            code_squares[i] = beta * code_squares[i] + mean;
            const float scale = code_rate / (std::sqrt(code_squares[i]) + tiny);
            for (int k = 0; k < latent_dim; k++) codes[(size_t)i * rows + k] -= scale * momentum[k];
            loss += gradient[latent_dim];
        }
    }
    std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - began;
    printf("%.6f %.6e\n", taken.count() / (epochs - uncounted), loss / patches / pixels);
}
