// Tensor copies from shared memory, and who waits for them.
#pragma once

namespace emu {

// Before a block.
void forget_stores();

} // namespace emu
