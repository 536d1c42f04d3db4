// The tiles of the ladder: row tiles, warps, keys, stages, queries in registers, blocks per multiprocessor.
#if HEAD == 64
add<Try<2, 4, 32, 3, 0, 3>>("32 keys, q shared, 3 blocks");
#elif HEAD == 128
add<Try<2, 4, 32, 3, 0, 2>>("3 stages");
#else
add<Try<2, 4, 64, 4, 1, 2>>("64 keys, 2 blocks");
add<Try<2, 4, 64, 4, 1, 3>>("64 keys, 3 blocks");
add<Try<2, 4, 64, 2, 1, 2>>("64 keys, 2 blocks, 2 stages");
#endif
