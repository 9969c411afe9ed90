// The kernels in plain C++: the last resort on a processor that nothing else fits, and the check of the others.
#include "types.h"

#define AQUILA_ISA portable
#include "isa.h"
