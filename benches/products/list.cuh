// The variants that the ladder measures.
#define VARIANT(name, band, ...)                                                                              \
    add<Variant<__VA_ARGS__, Epilogue::Gelu>>(all, data, name, band);                                         \
    add<Variant<__VA_ARGS__, Epilogue::Gated>>(all, data, name, band)
#define GELU(name, band, ...) add<Variant<__VA_ARGS__, Epilogue::Gelu>>(all, data, name, band)
#define BIAS(name, band, ...) add<Variant<__VA_ARGS__, Epilogue::Bias>>(all, data, "bias only: " name, band)
void add_all(std::vector<Runner> &all, Data &data) {
    VARIANT("128x192, 5 stages, 32x3", 8, Plan::PingPong, 2, 2, 192, 5, Common::Nothing, 32, 3);
    VARIANT("128x192, 4 stages, 32x6", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 32, 6);
    GELU("128x192, 4 stages, 64x2", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 2);
    GELU("128x192, 4 stages, 64x3", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 3);
    GELU("128x192, 4 stages, 64x2", 16, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 2);
    GELU("128x192, 4 stages, 64x2", 32, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 2);
    VARIANT("128x192, 4 stages, 32x6, weight x2", 8, Plan::PingPong, 2, 2, 192, 4, Common::Weight, 32, 6);
    GELU("128x192, 4 stages, 64x2, weight x2", 8, Plan::PingPong, 2, 2, 192, 4, Common::Weight, 64, 2);
    GELU("shared 128x256", 8, Plan::Shared, 2, 1, 256, 4, Common::Nothing, 64, 1);
    // What the epilogue costs.
    BIAS("128x192, 4 stages, 64x2", 8, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 2);
    BIAS("128x192, 4 stages, 64x2", 16, Plan::PingPong, 2, 2, 192, 4, Common::Nothing, 64, 2);
    BIAS("128x192, 4 stages, 64x2, weight x2", 8, Plan::PingPong, 2, 2, 192, 4, Common::Weight, 64, 2);
}
