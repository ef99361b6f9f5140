// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tracepoints
 */
#define CREATE_TRACE_POINTS
#include "trace.h"
