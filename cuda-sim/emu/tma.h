// Tensor copies from shared memory, and the threads that wait for them.
#pragma once

namespace emu {

// Called before each block.
void forget_stores();

} // namespace emu
