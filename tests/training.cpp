// The training of neural_compression.py in C++ with OpenMP, for benchmark.py to compare with.
//
//     g++ -O3 -march=native -ffast-math -fopenmp -DTILE=512 training.cpp -o training
//     ./training LONG SHORT ROWS LEARNED EPOCHS < numbers
//
// LONG and SHORT are the numbers of vectors of the longer and the shorter side, of ROWS numbers each. LEARNED is
// 1 if the pixels are the longer side: their last number, the bias, is learned; the 1 behind a code isn't. Reads
// targets (SHORT, LONG), the longer side (ROWS, LONG), the shorter side (ROWS, SHORT), and the two rates, all
// float32. Prints milliseconds per epoch, without the first tenth of the epochs, and the last loss.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

constexpr int T = TILE;  // vectors of a tile, which the compiler knows
using Array = std::vector<float>;

// Adam with one second moment per vector, for `count` vectors side by side, of which `rows` numbers are learned.
template <typename Count>
void adam(float* vectors, const float* gradient, float* mean, float* square, int rows, Count count, float rate,
          float share, float* scale) {
    std::fill(scale, scale + count, 0.0f);
    for (int k = 0; k < rows; k++)
        for (int n = 0; n < count; n++) {
            const float slope = gradient[k * count + n];
            scale[n] += slope * slope;
            mean[k * count + n] += share * (slope - mean[k * count + n]);
        }
    for (int n = 0; n < count; n++) {
        square[n] += share * (scale[n] - square[n]);
        scale[n] = rate / (std::sqrt(square[n]) + 1e-8f);
    }
    for (int k = 0; k < rows; k++)
        for (int n = 0; n < count; n++) vectors[k * count + n] -= scale[n] * mean[k * count + n];
}

bool take(float* numbers, size_t count) { return fread(numbers, sizeof(float), count, stdin) == count; }

// (rows, count) from standard input as (tiles, rows, T), the last tile filled up.
Array tiled(int rows, int count, float fill) {
    const int tiles = (count + T - 1) / T;
    Array all((size_t)tiles * rows * T, fill), line(count);
    for (int k = 0; k < rows; k++) {
        if (!take(line.data(), count)) exit(2);
        for (int n = 0; n < count; n++) all[((size_t)(n / T) * rows + k) * T + n % T] = line[n];
    }
    return all;
}

int main(int arguments, char** argument) {
    if (arguments != 6) return 2;
    const int length = atoi(argument[1]), count = atoi(argument[2]), rows = atoi(argument[3]);
    const bool pixels_are_long = atoi(argument[4]);
    const int epochs = atoi(argument[5]), tiles = (length + T - 1) / T;
    const int learned = rows - !pixels_are_long, short_learned = rows - pixels_are_long;
    const Array targets = tiled(count, length, 0.5f);
    Array vectors = tiled(rows, length, 0.0f), shorter((size_t)rows * count);
    float rates[2];
    if (!take(shorter.data(), shorter.size()) || !take(rates, 2)) return 2;

    Array mean((size_t)tiles * learned * T), square((size_t)tiles * T), errors(tiles);
    Array short_mean((size_t)short_learned * count), short_square(count), scale(count);
    Array gradients((size_t)tiles * rows * count), total((size_t)rows * count);
    double weight = 0, loss = 0;
    auto began = std::chrono::steady_clock::now();
    for (int epoch = 0; epoch < epochs; epoch++) {
        if (epoch == epochs / 10) began = std::chrono::steady_clock::now();
        const double falling = (1 + std::cos(M_PI * epoch / epochs)) / 2;
        weight = 1 + (0.95 - 0.15 * falling) * weight;
        const float share = 1 / weight, rate = falling * rates[0];

        #pragma omp parallel
        {
            Array delta((size_t)count * T), gradient((size_t)rows * T), work(T);
            #pragma omp for schedule(static)
            for (int tile = 0; tile < tiles; tile++) {
                float* v = &vectors[(size_t)tile * rows * T];
                float error_sum = 0;
                std::fill(gradient.begin(), gradient.end(), 0.0f);
                for (int j = 0; j < count; j++) {
                    float* d = &delta[(size_t)j * T];
                    for (int n = 0; n < T; n++) d[n] = 0;
                    for (int k = 0; k < rows; k++)
                        for (int n = 0; n < T; n++) d[n] += shorter[k * count + j] * v[k * T + n];
                    const float* target = &targets[((size_t)tile * count + j) * T];
                    for (int n = 0; n < T; n++) {
                        const float z = std::max(-18.0f, std::min(18.0f, d[n]));
                        const float output = 1 / (1 + std::exp(-z)), error = output - target[n];
                        d[n] = error * (output - output * output);
                        error_sum += error * error;
                    }
                    for (int k = 0; k < rows; k++) {
                        float product = 0;
                        for (int n = 0; n < T; n++) {
                            product += d[n] * v[k * T + n];
                            gradient[k * T + n] += d[n] * shorter[k * count + j];
                        }
                        gradients[((size_t)tile * rows + k) * count + j] = product;
                    }
                }
                adam(v, gradient.data(), &mean[(size_t)tile * learned * T], &square[(size_t)tile * T], learned,
                     std::integral_constant<int, T>(), rate, share, work.data());
                errors[tile] = error_sum;
            }
        }
        std::fill(total.begin(), total.end(), 0.0f);
        loss = 0;
        for (int tile = 0; tile < tiles; tile++) {
            for (size_t n = 0; n < total.size(); n++) total[n] += gradients[tile * total.size() + n];
            loss += errors[tile];
        }
        adam(shorter.data(), total.data(), short_mean.data(), short_square.data(), short_learned, count,
             falling * rates[1], share, scale.data());
    }
    std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - began;
    printf("%.6f %.6e\n", taken.count() / (epochs - epochs / 10), loss / length / count);
}
