# CRC-32C of a stretch of memory: by the processor's own instruction where it has one, else by tables. x86 begins one of
# those instructions in each cycle and ends it two later, so where there is enough, three blocks are read side by side.

from libc.stdint cimport uint32_t

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    static uint32_t crc32c_table[8][256];

    static void crc32c_prepare(void) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t crc = byte;
            for (int bit = 0; bit < 8; bit++)
                crc = crc & 1 ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;  /* Castagnoli's polynomial, bits reversed */
            crc32c_table[0][byte] = crc;
        }
        for (int row = 1; row < 8; row++)
            for (int byte = 0; byte < 256; byte++) {
                uint32_t before = crc32c_table[row - 1][byte];
                crc32c_table[row][byte] = (before >> 8) ^ crc32c_table[0][before & 255];
            }
    }

    static uint32_t crc32c_by_table(const unsigned char *data, size_t size) {
        uint32_t crc = 0xffffffffu;
        for (; size >= 8; data += 8, size -= 8) {
            crc ^= (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
            crc = crc32c_table[7][crc & 255] ^ crc32c_table[6][crc >> 8 & 255] ^ crc32c_table[5][crc >> 16 & 255]
                ^ crc32c_table[4][crc >> 24] ^ crc32c_table[3][data[4]] ^ crc32c_table[2][data[5]]
                ^ crc32c_table[1][data[6]] ^ crc32c_table[0][data[7]];
        }
        while (size--)
            crc = (crc >> 8) ^ crc32c_table[0][(crc ^ *data++) & 255];
        return ~crc;
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    #include <immintrin.h>
    #define CRC32C_IN_HARDWARE (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"))
    #define CRC32C_TARGET __attribute__((target("sse4.2,pclmul")))
    #define CRC32C_8(crc, value) ((uint32_t)_mm_crc32_u64(crc, value))
    #define CRC32C_1(crc, value) _mm_crc32_u8(crc, value)
    #define CRC32C_BLOCK 512  /* bytes */
    /* x to the power of n modulo the polynomial, bits reversed: 8 * BLOCK - 33, and 8 * 2 * BLOCK - 33 */
    #define CRC32C_PAST_1 0xdd7e3b0cu
    #define CRC32C_PAST_2 0x170076fau

    /* What a CRC becomes after as many zeros: the product lacks 33 powers of x, 32 of which the instruction adds. */
    CRC32C_TARGET static inline uint32_t crc32c_past(uint32_t crc, uint32_t zeros) {
        __m128i product = _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)crc), _mm_cvtsi32_si128((int)zeros), 0);
        return CRC32C_8(0, (uint64_t)_mm_cvtsi128_si64(product));
    }
    #elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
    #include <arm_acle.h>
    #define CRC32C_IN_HARDWARE 1
    #define CRC32C_TARGET
    #define CRC32C_8(crc, value) __crc32cd(crc, value)
    #define CRC32C_1(crc, value) __crc32cb(crc, value)
    #endif

    #ifdef CRC32C_IN_HARDWARE
    CRC32C_TARGET static uint32_t crc32c_by_instruction(const unsigned char *data, size_t size) {
        uint32_t crc = 0xffffffffu;
        uint64_t eight;
    #ifdef CRC32C_BLOCK
        for (; size >= 3 * CRC32C_BLOCK; data += 3 * CRC32C_BLOCK, size -= 3 * CRC32C_BLOCK) {
            uint32_t second = 0, third = 0;
            for (size_t at = 0; at < CRC32C_BLOCK; at += 8) {
                memcpy(&eight, data + at, 8);
                crc = CRC32C_8(crc, eight);
                memcpy(&eight, data + CRC32C_BLOCK + at, 8);
                second = CRC32C_8(second, eight);
                memcpy(&eight, data + 2 * CRC32C_BLOCK + at, 8);
                third = CRC32C_8(third, eight);
            }
            crc = crc32c_past(crc, CRC32C_PAST_2) ^ crc32c_past(second, CRC32C_PAST_1) ^ third;
        }
    #endif
        for (; size >= 8; data += 8, size -= 8) {
            memcpy(&eight, data, 8);
            crc = CRC32C_8(crc, eight);
        }
        while (size--)
            crc = CRC32C_1(crc, *data++);
        return ~crc;
    }
    #else
    #define CRC32C_IN_HARDWARE 0
    #define crc32c_by_instruction crc32c_by_table
    #endif

    static int crc32c_in_hardware(void) { return CRC32C_IN_HARDWARE != 0; }
    """
    void crc32c_prepare()
    int crc32c_in_hardware()
    uint32_t crc32c_by_table(const unsigned char *data, size_t size)
    uint32_t crc32c_by_instruction(const unsigned char *data, size_t size)
