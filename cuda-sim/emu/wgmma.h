// Products of a warpgroup.
#pragma once

namespace emu {

// Called before each block.
void forget_products();

} // namespace emu
