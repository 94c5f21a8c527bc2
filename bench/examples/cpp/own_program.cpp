// A kernel that lives in a C++ program of its own, checked through files:
//
//     touchstone export "$CASE" --out case.safetensors
//     ./own_program case.safetensors out.safetensors
//     touchstone verify "$CASE" --output out.safetensors
//
// for a CASE of ssm.recurrence with real f32 numbers and no initial state. Replace recurrence() by what launches your
// own kernel. (If the kernel can be compiled alone, no program is needed: see ../cuda/recurrence.toml.)
//
//     nvcc -std=c++17 -O2 -x cu -o own_program own_program.cpp      the kernel of ../cuda/recurrence.cu, on a GPU
//     c++ -std=c++17 -O2 -o own_program own_program.cpp             a loop on the CPU, where there is no nvcc

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

struct Tensor {
    std::vector<size_t> shape;
    std::vector<float> values;
};

// A safetensors file is the length of its header (8 bytes, little-endian), the header (JSON), the data.
struct File {
    std::string header, data;

    explicit File(const char* path) {
        std::ifstream in(path, std::ios::binary);
        const std::string all((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
        uint64_t size = 0;
        if (all.size() < 8) throw std::runtime_error(std::string(path) + ": no safetensors file");
        std::memcpy(&size, all.data(), 8);
        if (size > all.size() - 8) throw std::runtime_error(std::string(path) + ": cut off");
        header = all.substr(8, size);
        data = all.substr(8 + size);
    }

    Tensor f32(const std::string& name) const {
        const std::regex entry("\"" + name + R"re(":\{"dtype":"F32","shape":\[([0-9,]*)\],"data_offsets":\[(\d+),(\d+)\])re");
        std::smatch found;
        if (!std::regex_search(header, found, entry)) throw std::runtime_error("no f32 tensor " + name);
        Tensor tensor;
        const std::string shape = found[1];
        const std::regex number("\\d+");
        for (std::sregex_iterator n(shape.begin(), shape.end(), number), end; n != end; ++n)
            tensor.shape.push_back(std::stoull(n->str()));
        const size_t begin = std::stoull(found[2]), bytes = std::stoull(found[3]) - begin;
        tensor.values.resize(bytes / sizeof(float));
        std::memcpy(tensor.values.data(), data.data() + begin, bytes);
        return tensor;
    }
};

void write(const char* path, const std::string& name, const Tensor& tensor) {
    std::string shape;
    for (size_t n : tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(n);
    const size_t bytes = tensor.values.size() * sizeof(float);
    const std::string header = "{\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[" + shape +
                               "],\"data_offsets\":[0," + std::to_string(bytes) + "]}}";
    const uint64_t size = header.size();
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), 8) << header;
    out.write(reinterpret_cast<const char*>(tensor.values.data()), static_cast<std::streamsize>(bytes));
    if (!out.flush()) throw std::runtime_error(std::string(path) + ": cannot be written");
}

// h[b, t, c] = a[b, t, c] * h[b, t-1, c] + x[b, t, c]
#ifdef __CUDACC__
#include "../cuda/recurrence.cu"

void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

Tensor recurrence(const Tensor& a, const Tensor& x) {
    const long long steps = a.shape[1], channels = a.shape[2], columns = a.shape[0] * channels;
    const size_t bytes = x.values.size() * sizeof(float);
    Tensor h = x;
    if (bytes == 0) return h;
    float *on_device[3];
    for (float*& buffer : on_device) check(cudaMalloc(&buffer, bytes));
    auto [da, dx, dh] = on_device;
    check(cudaMemcpy(da, a.values.data(), bytes, cudaMemcpyHostToDevice));
    check(cudaMemcpy(dx, x.values.data(), bytes, cudaMemcpyHostToDevice));
    const unsigned blocks = static_cast<unsigned>((columns + 255) / 256);
    my_recurrence<<<blocks, 256>>>(dh, da, dx, nullptr, static_cast<int>(channels), columns, steps);
    check(cudaGetLastError());
    check(cudaMemcpy(h.values.data(), dh, bytes, cudaMemcpyDeviceToHost));
    for (float* buffer : on_device) check(cudaFree(buffer));
    return h;
}
#else
Tensor recurrence(const Tensor& a, const Tensor& x) {
    const size_t steps = a.shape[1], channels = a.shape[2];
    Tensor h = x;
    for (size_t i = 0; i < h.values.size(); ++i)
        if (i / channels % steps) h.values[i] += a.values[i] * h.values[i - channels];
    return h;
}
#endif

int main(int count, char** arguments) try {
    if (count != 3) throw std::runtime_error("usage: own_program CASE.safetensors OUT.safetensors");
    const File file(arguments[1]);
    write(arguments[2], "h", recurrence(file.f32("inputs.a"), file.f32("inputs.x")));
    return 0;
} catch (const std::exception& error) {
    std::cerr << "own_program: " << error.what() << "\n";
    return 2;
}
