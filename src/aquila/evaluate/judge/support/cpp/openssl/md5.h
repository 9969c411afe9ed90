// MD5 under the names of OpenSSL, which the benchmark includes and a machine may not have. Source: RFC 1321.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define MD5_DIGEST_LENGTH 16

struct MD5_CTX {
    uint32_t state[4];
    uint64_t length;
    unsigned char block[64];
};

static inline void aquila_md5_block(MD5_CTX* context) {
    static const int shifts[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
    static const int steps[4][2] = {{1, 0}, {5, 1}, {3, 5}, {7, 0}};
    uint32_t words[16], v[4];
    for (int i = 0; i < 16; i++) {
        const unsigned char* p = context->block + 4 * i;
        words[i] = p[0] | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
    }
    std::memcpy(v, context->state, sizeof v);
    for (int i = 0; i < 64; i++) {
        const int round = i / 16;
        const uint32_t b = v[1], c = v[2], d = v[3];
        const uint32_t mixes[4] = {(b & c) | (~b & d), (d & b) | (~d & c), b ^ c ^ d, c ^ (b | ~d)};
        const uint32_t constant = uint32_t(std::floor(std::fabs(std::sin(double(i + 1))) * 4294967296.0));
        const uint32_t sum = v[0] + mixes[round] + constant + words[(steps[round][0] * i + steps[round][1]) % 16];
        const int shift = shifts[round][i % 4];
        v[0] = d;
        v[3] = c;
        v[2] = b;
        v[1] = b + (sum << shift | sum >> (32 - shift));
    }
    for (int i = 0; i < 4; i++) context->state[i] += v[i];
}

static inline int MD5_Init(MD5_CTX* context) {
    const uint32_t start[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
    std::memcpy(context->state, start, sizeof start);
    context->length = 0;
    return 1;
}

static inline int MD5_Update(MD5_CTX* context, const void* data, size_t size) {
    const unsigned char* bytes = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < size; i++) {
        context->block[context->length++ % 64] = bytes[i];
        if (context->length % 64 == 0) aquila_md5_block(context);
    }
    return 1;
}

static inline int MD5_Final(unsigned char* digest, MD5_CTX* context) {
    const uint64_t bits = context->length * 8;
    const unsigned char one = 0x80, zero = 0;
    MD5_Update(context, &one, 1);
    while (context->length % 64 != 56) MD5_Update(context, &zero, 1);
    for (int i = 0; i < 8; i++) {
        const unsigned char byte = (unsigned char)(bits >> (8 * i));
        MD5_Update(context, &byte, 1);
    }
    for (int i = 0; i < 16; i++) digest[i] = (unsigned char)(context->state[i / 4] >> (8 * (i % 4)));
    return 1;
}

static inline unsigned char* MD5(const unsigned char* data, size_t size, unsigned char* digest) {
    static unsigned char own[MD5_DIGEST_LENGTH];
    unsigned char* result = digest ? digest : own;
    MD5_CTX context;
    MD5_Init(&context);
    MD5_Update(&context, data, size);
    MD5_Final(result, &context);
    return result;
}
