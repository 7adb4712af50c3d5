/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* gvm sim: what its command line (gvm_sim.c) and its report (gvm_sim_report.c) share. */
#ifndef GVM_SIM_TOOL_H
#define GVM_SIM_TOOL_H

#include "tools/sim.h"

struct sim_done {
	struct sim_config config;
	struct sim_result result;
	double took; /* seconds of this machine */
};

/* The name of a workload, or NULL: there are no more. */
const char *sim_pattern_name(enum sim_pattern pattern);

void sim_report_text(const struct sim_done *done);
/* A row of the table; first: with its head. */
void sim_report_row(const struct sim_done *done, int first);
/* One object; many (runs are more than one): an array of them. */
void sim_report_json(const struct sim_done *done, unsigned runs, int many);
/* On standard error, since it differs from run to run: how fast this machine was. */
void sim_report_speed(const struct sim_done *done, unsigned runs);

#endif
