// The kernels of every instruction set and number: a source file each.
#pragma once

#include "kernels.h"

namespace tdas_ops::cpu {

template <class T>
const KernelsOf<T>& of_baseline();
template <>
const KernelsOf<float>& of_baseline();
template <>
const KernelsOf<double>& of_baseline();

#if defined(__x86_64__)
template <class T>
const KernelsOf<T>& of_avx2();
template <>
const KernelsOf<float>& of_avx2();
template <>
const KernelsOf<double>& of_avx2();

template <class T>
const KernelsOf<T>& of_avx512();
template <>
const KernelsOf<float>& of_avx512();
template <>
const KernelsOf<double>& of_avx512();
#endif

}  // namespace tdas_ops::cpu
