/* What bindgen reads; build.rs holds the allowlist. */
#include <uwsgi.h>

#include "shim.h"
