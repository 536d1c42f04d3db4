// The variants that the ladder measures. KEPT: the registers of the sums stay theirs through the
// epilogue, as in the kernel.
#define ADD(epilogue, name, band, ...) add<Variant<__VA_ARGS__, Epilogue::epilogue>>(all, data, name, band)
#define KEPT(epilogue, name, band, ...) add<Kept<Variant<__VA_ARGS__, Epilogue::epilogue>>>(all, data, name, band)

void add_all(std::vector<Runner> &all, Data &data) {
#ifndef LADDER_QKV // -DLADDER_QKV compiles in a tenth of the time
    KEPT(Gelu, "128x128, 6 stages, 64x2", 8, Plan::PingPong, 2, 2, 128, 6, Common::Nothing, 64, 2);
    KEPT(Gated, "128x128, 6 stages, 64x2", 8, Plan::PingPong, 2, 2, 128, 6, Common::Nothing, 64, 2);
    KEPT(Gelu, "128x192, 5 stages, 32x3", 8, Plan::PingPong, 2, 2, 192, 5, Common::Nothing, 32, 3);
    KEPT(Gelu, "128x192, 5 stages, 64x1", 8, Plan::PingPong, 2, 2, 192, 5, Common::Nothing, 64, 1);
    KEPT(Gelu, "128x192, 4 stages, 64x2", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 2);
    KEPT(Gelu, "128x192, 4 stages, 64x3", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 3);
    KEPT(Gated, "128x192, 4 stages, 32x6", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 32, 6);
    ADD(Gelu, "free: 128x192, 4 stages, 64x3", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 3);
    KEPT(Gelu, "128x192, 4 stages, 64x2, weight x2", 8, Plan::PingPong, 2, 2, 192, 4, Common::Weight, 64, 2);
    KEPT(Gelu, "128x192, 4 stages, 64x2, rows x2", 8, Plan::PingPong, 2, 2, 192, 4, Common::Rows, 64, 2);
    KEPT(Gated, "128x192, 4 stages, 32x6, weight x2", 8, Plan::PingPong, 2, 2, 192, 4, Common::Weight, 32, 6);
    KEPT(Gelu, "128x160, 4 stages, 32x5", 8, Plan::PingPong, 2, 2, 160, 4, Common::Nothing, 32, 5);
    KEPT(Gelu, "shared 128x256, 4 stages, 64x2", 8, Plan::Shared, 2, 1, 256, 4, Common::Nothing, 64, 2);
    KEPT(Gelu, "shared 128x256, weight x2", 8, Plan::Shared, 2, 1, 256, 4, Common::Weight, 64, 2);
    KEPT(Gelu, "shared 256x128, weight x2", 8, Plan::Shared, 2, 2, 128, 4, Common::Weight, 64, 1);
    KEPT(Bias, "bias only: 128x192", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 3);
#endif
    add_qkv<16>(all, data);
    add_qkv<32>(all, data);
    add_qkv<64>(all, data);
    add_qkv<128>(all, data);
    ADD(Residual, "added: 128x192, 4 stages, 32x3", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 32, 3);
    ADD(Residual, "added: 128x192, 4 stages, 32x3", 16, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 32, 3);
    ADD(Residual, "added: 128x256 shared, 32x2", 8, Plan::Shared, 2, 1, 256, 4, Common::Nothing, 32, 2);
    ADD(Residual, "added: 128x160, 4 stages, 32x5", 8, Plan::PingPong, 2, 2, 160, 4, Common::Nothing, 32, 5);
}
