// What only a device has, as small functions: instructions that C++ has no words for. `host/host.h` has the same
// functions for the host, so that every kernel compiles for both. Every file of this folder is part of one source:
// device.cuh, numbers.cuh, then the kernels; nothing is included, and no header of CUDA is needed.

#define INFINITY __int_as_float(0x7F800000)

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// The memory that the threads of a block share; its size is an argument of the launch.
extern __shared__ __align__(128) u8 shared_bytes[];
#define SHARED(type, name) type* name = reinterpret_cast<type*>(shared_bytes)

__device__ inline float from_half(u16 bits) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(bits));
    return out;
}

// Two numbers rounded to bf16, the first in the lower half.
__device__ inline u32 pack(float low, float high) {
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

// sum += A · B of a warp: A 16 × 16, B 16 × 8, both bf16; sum 16 × 8. Fragments as PTX lays out mma.m16n8k16.
__device__ inline void multiply(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline u32 shared_address(const void* at) { return static_cast<u32>(__cvta_generic_to_shared(at)); }

// Four 8 × 8 matrices of 16-bit numbers: lane i gives the row i % 8 of matrix i / 8, and gets of each matrix two
// neighbours of row lane / 4.
__device__ inline void load_matrices(u32 (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, transposed.
__device__ inline void load_transposed(u32 (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Begins to copy 16 bytes to shared memory; zeros where there is nothing. They are there after `copies_wait`.
__device__ inline void copy16(void* to, const void* from, bool is_there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(is_there ? 16 : 0)
                 : "memory");
}

// Makes one group of the copies begun since the last one.
__device__ inline void copies_close() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all but the last `LATER` groups of this thread.
template <int LATER> __device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}

// 16 bytes that nobody reads a second time: they need not stay in the first cache.
__device__ inline uint4 read_once(const uint4* at) {
    uint4 out;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
                 : "l"(at));
    return out;
}
