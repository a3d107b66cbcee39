"""The counter-based random generator Philox4x32-10 in plain integer arithmetic."""

from typing import Any

WORD = 0xFFFFFFFF


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """Four random 32-bit words from a counter of four and a key of two such words.

    Philox4x32-10 (Salmon et al. 2011). The counter holds integers, or int64 tensors or arrays that broadcast.

    >>> [hex(word) for word in philox((0, 0, 0, 0), key=(0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        # A 32-bit product may wrap around int64 and shifts keep its sign: "& WORD" leaves the right bits all the same.
        left, right = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = ((right >> 32) ^ c1 ^ k0) & WORD, right
        c2, c3 = ((left >> 32) ^ c3 ^ k1) & WORD, left
        k0, k1 = k0 + 0x9E3779B9 & WORD, k1 + 0xBB67AE85 & WORD
    return c0, c1 & WORD, c2, c3 & WORD
