/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What tests of rma.c over the fake fabric begin and end with; behind fake_fabric.h. */
#ifndef GVM_TESTS_RMA_RIG_H
#define GVM_TESTS_RMA_RIG_H

#define RW (GVM_ACCESS_FETCH | GVM_ACCESS_PUT)

static inline struct gvm_rma_ep *rma_ep(struct conn *c)
{
	return (struct gvm_rma_ep *)c->ep;
}

static inline int fake_setup(void **state)
{
	memset(&fake, 0, sizeof(fake));
	return no_allow(state);
}

static inline int fake_teardown(void **state)
{
	int status = teardown(state);

	assert_int_equal(fake.regs + fake.shared, 0);
	assert_true(fake.most_in_flight <= GVM_RMA_RECVS);
	return status;
}

static inline int taken_back(void **state)
{
	fake_fabric.takes_back = 1;
	return fake_setup(state);
}

static inline int taken_back_teardown(void **state)
{
	int status = fake_teardown(state);

	fake_fabric.takes_back = 0;
	return status;
}

#define FAKE(test)                                                                                 \
	cmocka_unit_test_prestate_setup_teardown(test, fake_setup, fake_teardown,                  \
						 (void *)&fake_provider)

#define TAKES_BACK(test)                                                                           \
	cmocka_unit_test_prestate_setup_teardown(test, taken_back, taken_back_teardown,            \
						 (void *)&fake_provider)

#endif
