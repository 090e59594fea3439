/* What the benchmark's helpers share. Each is one source file, compiled when the benchmark starts. */
#ifndef COMMON_H
#define COMMON_H

#include "basics.h"

/* Ports of serve.c. */
enum { ECHO_PORT = 7001, CONNECT_PORT = 7002, SINK_PORT = 7003 };

#endif
