// The variants that the ladder measures.
#define ADD(epilogue, name, band, ...) add<Variant<__VA_ARGS__, Epilogue::epilogue>>(all, data, name, band)
#define KEPT(epilogue, name, band, ...) add<Kept<Variant<__VA_ARGS__, Epilogue::epilogue>>>(all, data, name, band)
void add_all(std::vector<Runner> &all, Data &data) {
    KEPT(Gelu, "before: 128x128, 6 stages, 64x2, kept", 8, Plan::PingPong, 2, 2, 128, 6, Common::Nothing, 64, 2);
    KEPT(Gated, "before: 128x128, 6 stages, 64x2, kept", 8, Plan::PingPong, 2, 2, 128, 6, Common::Nothing, 64, 2);
    ADD(Gelu, "128x128, 6 stages, 64x2", 8, Plan::PingPong, 2, 2, 128, 6, Common::Nothing, 64, 2);
    KEPT(Gelu, "128x192, 4 stages, 64x3, kept", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 3);
    ADD(Gelu, "128x192, 4 stages, 64x3", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 3);
    ADD(Gelu, "128x192, 4 stages, 64x3, weight x2", 8, Plan::PingPong, 2, 2, 192, 4, Common::Weight, 64, 3);
    ADD(Gated, "128x192, 4 stages, 32x6, weight x2", 8, Plan::PingPong, 2, 2, 192, 4, Common::Weight, 32, 6);
    ADD(Gelu, "128x192, 5 stages, 64x1", 8, Plan::PingPong, 2, 2, 192, 5, Common::Nothing, 64, 1);
    ADD(Gelu, "128x160, 4 stages, 32x5", 8, Plan::PingPong, 2, 2, 160, 4, Common::Nothing, 32, 5);
    ADD(Gelu, "shared 128x256, 4 stages, 64x2", 8, Plan::Shared, 2, 1, 256, 4, Common::Nothing, 64, 2);
    ADD(Gelu, "shared 128x256, 4 stages, 64x2, weight x2", 8, Plan::Shared, 2, 1, 256, 4, Common::Weight, 64, 2);
    ADD(Bias, "bias only: 128x192, 4 stages, 64x3", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 3);
    ADD(Rotate, "rotated: 128x192, 4 stages, 64x3", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 3);
    ADD(Residual, "added: 128x192, 4 stages, 32x3", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 32, 3);
    ADD(Residual, "added: 128x160, 4 stages, 32x5", 8, Plan::PingPong, 2, 2, 160, 4, Common::Nothing, 32, 5);
    ADD(Residual, "added: shared 128x256, 4 stages, 32x2", 8, Plan::Shared, 2, 1, 256, 4, Common::Nothing, 32, 2);
}
