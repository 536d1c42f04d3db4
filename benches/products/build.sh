export NVCC=/work/main/third_party/cuda/nvidia/cu13/bin/nvcc
time $NVCC -O2 -std=c++17 -Xptxas -v -I ../../kernels -gencode=arch=compute_90a,code=sm_90a ladder.cu -L /work/main/third_party/cuda/nvidia/cu13/lib -o /work/main/.gpu-helper/a/ladder -ldl -lrt -lpthread >/tmp/gpuA.log 2>&1; grep -n "error" /tmp/gpuA.log | head; grep -n "C75" /tmp/gpuA.log | head
grep -A2 "Compiling" /tmp/gpuA.log | grep -o "Compiling.*'\|[0-9]* bytes spill stores\|Used [0-9]* reg" | paste - - - | grep product | sed 's/Compiling entry function//' | c++filt 2>/dev/null | cut -c1-220
