/* status_report.h -- the pipeline's status: JSON file and keys of HASHPIPE's status buffer. */
#ifndef PANOSETI_STATUS_REPORT_H
#define PANOSETI_STATUS_REPORT_H

#include "pipeline.h"

/* Writes the status file of the run (see status_file.h).  0 or -errno. */
int status_report_file(struct pipeline *pipeline);

/* That was the last one, with this result: if it failed, the account is told on stderr. */
void status_report_end(struct pipeline *pipeline, int err);

/* Sets the keys in the status buffer. */
void status_report_keys(struct pipeline *pipeline, hashpipe_status_t *status);

#endif
