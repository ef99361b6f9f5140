// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/* Errors, and what to do about them */
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

static __thread char message[320];

int exm_fail(int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	return -error;
}

/* Explain the last failure of the calling thread. Valid until the next one. */
const char *exm_message(void)
{
	return message;
}
