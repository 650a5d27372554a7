// Stands in for the CUDA runtime where kernels are compiled as C++.
#pragma once
#include "simt.h"
