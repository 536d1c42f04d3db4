// A ring of stages in shared memory, filled by producers and emptied by consumers.
//
// Each stage has two mbarriers, `full` and `empty`. A thread walks round the ring with a cursor: a stage, and the phase
// of that stage's barriers, a bit that changes with each round. A consumer waits for `full` with the cursor's phase; a
// producer waits for `empty` with the opposite one, so that its first round waits for nothing.
#pragma once

#include "kernel.cuh"

// A cursor of a ring of STAGES stages.
template <int STAGES> struct RingCursor {
    uint32_t stage = 0, phase = 0;
    __device__ __forceinline__ void next() {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
    // Goes on by this many stages.
    __device__ __forceinline__ void skip(uint32_t steps) {
        const uint32_t to = stage + steps;
        stage = to % STAGES;
        phase ^= (to / STAGES) % 2;
    }
};
