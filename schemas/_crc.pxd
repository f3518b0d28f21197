"""CRC-32 as zlib computes it, which for some hundred bytes is quicker than to call zlib from Python.

By the processor's own instruction where it has one, else by tables, 16 bytes a step. x86 has none for this polynomial, but
multiplies without carries: 16 bytes, times what their distance leaves over modulo the polynomial, are added to the 16 that
lie so far behind, and so on until 16 are left (V. Gopal et al., Fast CRC Computation for Generic Polynomials Using the
PCLMULQDQ Instruction, Intel 2009).
"""

from libc.stdint cimport uint32_t

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    static uint32_t rookery_crc_tables[16][256];

    static inline uint32_t rookery_crc_load(const unsigned char *p) {
        return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    }

    #define ROOKERY_CRC_WORD(k, w) \
        (rookery_crc_tables[(k) + 3][(w) & 0xFF] ^ rookery_crc_tables[(k) + 2][(w) >> 8 & 0xFF] ^ \
         rookery_crc_tables[(k) + 1][(w) >> 16 & 0xFF] ^ rookery_crc_tables[k][(w) >> 24])

    static uint32_t rookery_crc_by_table(const unsigned char *p, size_t size) {
        uint32_t crc = 0xFFFFFFFFu;
        for (; size >= 16; p += 16, size -= 16) {
            uint32_t a = rookery_crc_load(p) ^ crc, b = rookery_crc_load(p + 4);
            uint32_t c = rookery_crc_load(p + 8), d = rookery_crc_load(p + 12);
            crc = ROOKERY_CRC_WORD(12, a) ^ ROOKERY_CRC_WORD(8, b) ^ ROOKERY_CRC_WORD(4, c) ^ ROOKERY_CRC_WORD(0, d);
        }
        while (size--) crc = crc >> 8 ^ rookery_crc_tables[0][(crc ^ *p++) & 0xFF];
        return ~crc;
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    #include <immintrin.h>
    #define ROOKERY_CRC_TARGET __attribute__((target("pclmul,ssse3")))
    #define ROOKERY_CRC_HARDWARE (__builtin_cpu_supports("pclmul") && __builtin_cpu_supports("ssse3"))

    ROOKERY_CRC_TARGET static inline __m128i rookery_crc_16(const unsigned char *p) {
        return _mm_loadu_si128((const __m128i *)p);
    }

    ROOKERY_CRC_TARGET static inline __m128i rookery_crc_fold(__m128i x, __m128i by) {
        return _mm_xor_si128(_mm_clmulepi64_si128(x, by, 0x00), _mm_clmulepi64_si128(x, by, 0x11));
    }

    ROOKERY_CRC_TARGET static uint32_t rookery_crc_by_instruction(const unsigned char *p, size_t size) {
        /* x to the power of n modulo the polynomial, bits reversed, shifted left by 1: for n = 480 and 544, which carry
           over 64 bytes, 96 and 160 (16 bytes), and 64 (4 bytes); then x^64 divided by the polynomial, and the latter. */
        const __m128i by_64 = _mm_set_epi64x(0x1C6E41596, 0x154442BD4), by_16 = _mm_set_epi64x(0x0CCAA009E, 0x1751997D0);
        const __m128i by_4 = _mm_set_epi64x(0, 0x163CD6124), barrett = _mm_set_epi64x(0x1F7011641, 0x1DB710641);
        const __m128i ones = _mm_cvtsi32_si128(-1);  /* in the first four bytes */
        /* Taken from `size` on: moves 16 bytes up by 16 - size, and from 16 + size on, down by size; zeros come in. */
        static const unsigned char moves[48] = {
            128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
            128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128};
        const size_t odd = size % 16;
        __m128i x, y;
        if (size < 16) return rookery_crc_by_table(p, size);
        /* Zeros in front change nothing, so what is no multiple of 16 is read there; the CRC's beginning is added to the
           first four bytes, wherever they come to lie. */
        x = _mm_shuffle_epi8(_mm_xor_si128(rookery_crc_16(p), ones), rookery_crc_16(moves + odd));
        y = _mm_shuffle_epi8(ones, rookery_crc_16(moves + 16 + odd));
        x = _mm_xor_si128(_mm_xor_si128(rookery_crc_fold(x, by_16), rookery_crc_16(p + odd)), y);
        p += odd + 16, size -= odd + 16;
        if (size >= 112) {  /* four at a time, which do not wait for each other */
            __m128i b = rookery_crc_16(p), c = rookery_crc_16(p + 16), d = rookery_crc_16(p + 32);
            for (p += 48, size -= 48; size >= 64; p += 64, size -= 64) {
                x = _mm_xor_si128(rookery_crc_fold(x, by_64), rookery_crc_16(p));
                b = _mm_xor_si128(rookery_crc_fold(b, by_64), rookery_crc_16(p + 16));
                c = _mm_xor_si128(rookery_crc_fold(c, by_64), rookery_crc_16(p + 32));
                d = _mm_xor_si128(rookery_crc_fold(d, by_64), rookery_crc_16(p + 48));
            }
            x = _mm_xor_si128(rookery_crc_fold(x, by_16), b);
            x = _mm_xor_si128(rookery_crc_fold(x, by_16), c);
            x = _mm_xor_si128(rookery_crc_fold(x, by_16), d);
        }
        for (; size; p += 16, size -= 16) x = _mm_xor_si128(rookery_crc_fold(x, by_16), rookery_crc_16(p));
        /* 16 bytes to 12, to 8; then Barrett's division leaves the 4 that remain. */
        x = _mm_xor_si128(_mm_srli_si128(x, 8), _mm_clmulepi64_si128(x, by_16, 0x10));
        x = _mm_xor_si128(_mm_srli_si128(x, 4), _mm_clmulepi64_si128(_mm_and_si128(x, ones), by_4, 0x00));
        y = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(x, ones), barrett, 0x10), ones);
        x = _mm_xor_si128(x, _mm_clmulepi64_si128(y, barrett, 0x00));
        return ~(uint32_t)_mm_cvtsi128_si32(_mm_srli_si128(x, 4));
    }
    #elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
    #include <arm_acle.h>
    #define ROOKERY_CRC_HARDWARE 1

    static uint32_t rookery_crc_by_instruction(const unsigned char *p, size_t size) {
        uint32_t crc = 0xFFFFFFFFu;
        for (; size >= 8; p += 8, size -= 8) {
            uint64_t eight;
            memcpy(&eight, p, 8);
            crc = __crc32d(crc, eight);
        }
        while (size--) crc = __crc32b(crc, *p++);
        return ~crc;
    }
    #else
    #define ROOKERY_CRC_HARDWARE 0
    #define rookery_crc_by_instruction rookery_crc_by_table
    #endif

    static int rookery_crc_hardware;

    static void rookery_crc_begin(void) {
        for (uint32_t n = 0; n < 256; n++) {
            uint32_t c = n;
            for (int bit = 0; bit < 8; bit++) c = c & 1 ? c >> 1 ^ 0xEDB88320u : c >> 1;
            rookery_crc_tables[0][n] = c;
        }
        for (uint32_t n = 0; n < 256; n++)
            for (int k = 1; k < 16; k++) {
                uint32_t c = rookery_crc_tables[k - 1][n];
                rookery_crc_tables[k][n] = c >> 8 ^ rookery_crc_tables[0][c & 0xFF];
            }
        rookery_crc_hardware = ROOKERY_CRC_HARDWARE != 0;
    }

    static inline uint32_t rookery_crc(const unsigned char *p, size_t size) {
        return rookery_crc_hardware ? rookery_crc_by_instruction(p, size) : rookery_crc_by_table(p, size);
    }
    """
    void crc_begin "rookery_crc_begin"() noexcept nogil
    uint32_t crc32 "rookery_crc"(const unsigned char* data, size_t size) noexcept nogil
    uint32_t crc32_by_table "rookery_crc_by_table"(const unsigned char* data, size_t size) noexcept nogil
