"""CRC-32 as zlib computes it, 16 bytes a step: for some hundred bytes that is quicker than to call zlib from Python."""

from libc.stdint cimport uint32_t

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>

    static uint32_t rookery_crc_tables[16][256];

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
    }

    static inline uint32_t rookery_crc_load(const unsigned char *p) {
        return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    }

    #define ROOKERY_CRC_WORD(k, w) \
        (rookery_crc_tables[(k) + 3][(w) & 0xFF] ^ rookery_crc_tables[(k) + 2][(w) >> 8 & 0xFF] ^ \
         rookery_crc_tables[(k) + 1][(w) >> 16 & 0xFF] ^ rookery_crc_tables[k][(w) >> 24])

    static uint32_t rookery_crc(const unsigned char *p, size_t size) {
        uint32_t crc = 0xFFFFFFFFu;
        for (; size >= 16; p += 16, size -= 16) {
            uint32_t a = rookery_crc_load(p) ^ crc, b = rookery_crc_load(p + 4);
            uint32_t c = rookery_crc_load(p + 8), d = rookery_crc_load(p + 12);
            crc = ROOKERY_CRC_WORD(12, a) ^ ROOKERY_CRC_WORD(8, b) ^ ROOKERY_CRC_WORD(4, c) ^ ROOKERY_CRC_WORD(0, d);
        }
        while (size--) crc = crc >> 8 ^ rookery_crc_tables[0][(crc ^ *p++) & 0xFF];
        return ~crc;
    }
    """
    void crc_begin "rookery_crc_begin"() noexcept nogil
    uint32_t crc32 "rookery_crc"(const unsigned char* data, size_t size) noexcept nogil
