// What the kernels of tree acceptance agree on.
#pragma once
#include "acceptance.cuh"

// How children come from the draft's distribution.
enum Drafts { INDEPENDENT = 0, DISTINCT = 1, TOP = 2 };

// Mass of q that must be left for a child to be examined.
constexpr double LEFT = 1.0 / (1 << 20);
