// Products of a warpgroup.
#pragma once

namespace emu {

// Before a block.
void forget_products();

} // namespace emu
