/* installed.h -- what library.c and launcher.c of this stand-in share. */
#ifndef PANOSETI_INSTALLED_H
#define PANOSETI_INSTALLED_H

#include <signal.h>
#include <stdbool.h>

#include "hashpipe.h"

extern volatile sig_atomic_t installed_running;

#endif
