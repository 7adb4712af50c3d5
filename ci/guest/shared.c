/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A firmware for machines whose memory several QEMUs share (docs/qemu.md): 64 KiB of ROM, which are
 * also at 0xf0000. Node 0 (NODE=0, one CPU) writes code, READERS CPUs of node 1 (NODE=1) call it:
 *
 *     node 0: code that returns r; flag = r            node 1: waits for r; cpuid; calls the code
 *     waits for all answers    <---------------------- says what it returned; answer = r
 *
 * The code lies across two pages. Then all add to the same words, and node 0 says what has come of
 * it. After that both obey letters on the serial line (orders(), below). Nothing may be in memory
 * but where the two have agreed on it, so there are no variables: all that is not in a register is
 * on a stack. shared.S is where each CPU starts.
 */
typedef unsigned int u32;
typedef unsigned char u8;

#define ROUNDS 500u
#define ADDS   3000u
#define OVER   0xffffffffu

#define AT(addr)  ((volatile u32 *)(addr))
#define CODE      0x10ffdu /* mov $r, %eax: its number is in both pages; ret */
#define FLAG      AT(0x20000)
#define JOINED    AT(0x21000)
#define ANSWER    AT(0x22000) /* of each reader, in a page of its own */
#define SUMS      AT(0x30000) /* of which all add to the first two */
#define ADDED     AT(0x31000) /* how many have done so */
#define ROM       AT(0x50000) /* where -device loader puts what reset writes */
#define MARK      0x600dcafeu
#define OWN       AT(0x70000)   /* a page that node 1 alone has */
#define VECTOR    (0x60 + NODE) /* the page where other CPUs of the node start */
#define APIC(reg) AT(0xfee00000u + (reg))

static u8 in(unsigned short port)
{
	u8 v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void put(u8 c)
{
	while (!(in(0x3fd) & 0x20))
		;
	__asm__ volatile("outb %0, %1" : : "a"(c), "Nd"((unsigned short)0x3f8));
}

static void text(const char *s)
{
	while (*s)
		put((u8)*s++);
}

static void number(u32 v)
{
	for (int i = 28; i >= 0; i -= 4)
		put((u8) "0123456789abcdef"[v >> i & 15]);
}

static void say(const char *what, u32 v)
{
	text(what);
	put(' ');
	number(v);
	put('\n');
}

static void add(volatile u32 *at, u32 v)
{
	__asm__ volatile("lock addl %1, %0" : "+m"(*at) : "r"(v) : "memory");
}

static int swapped(volatile u32 *at, u32 from, u32 to)
{
	u32 was = from;

	__asm__ volatile("lock cmpxchgl %2, %1" : "+a"(was), "+m"(*at) : "r"(to) : "memory");
	return was == from;
}

static void linger(u32 times)
{
	while (times-- > 0)
		in(0x3fd);
}

/* Of all CPUs of both nodes at once; slowly, so that the page has gone to another when it is wanted
 * again. */
static void add_all(void)
{
	for (u32 i = 0; i < ADDS; i++) {
		u32 v;

		add(&SUMS[0], 1);
		do
			v = SUMS[1];
		while (!swapped(&SUMS[1], v, v + 1));
		linger(100);
	}
	add(ADDED, 1);
	while (*ADDED < READERS + 1)
		;
}

static void orders(void)
{
	for (;;) {
		while (!(in(0x3fd) & 1))
			;
		switch (in(0x3f8)) {
		case 'r':
			say("rom", *ROM);
			break;
		case 'm':
			*ROM = MARK;
			say("marked", *ROM);
			break;
		case 'o': /* it is this node's alone from now on */
			*OWN = NODE + 77;
			say("own", NODE + 77);
			break;
		case 'g':
			say("got", *OWN);
			break;
		case 'a':
			add(&SUMS[2], 1);
			say("alive", SUMS[2]);
			break;
		default:
			break;
		}
	}
}

#if NODE == 0
static void write_code(u32 r)
{
	volatile u8 *code = (volatile u8 *)CODE;

	code[0] = 0xb8;
	for (int i = 0; i < 4; i++)
		code[1 + i] = (u8)(r >> 8 * i);
	code[5] = 0xc3;
}

static void rounds(void)
{
	while (*JOINED < READERS)
		;
	for (u32 r = 1; r <= ROUNDS; r++) {
		write_code(r << 16 | r);
		*FLAG = r;
		for (u32 i = 0; i < READERS; i++)
			while (ANSWER[i * 1024] < r)
				;
	}
}

static void node(u32 cpu)
{
	*ROM = MARK;
	say("marked", *ROM);
	rounds();
	add_all();
	say("sum", SUMS[0]);
	say("swaps", SUMS[1]);
	say("wanted", (READERS + 1) * ADDS);
	*FLAG = OVER;
	orders();
}
#else
/* As a CPU must that is to execute what another one has written. */
static void serialise(void)
{
	u32 a = 0;

	__asm__ volatile("cpuid" : "+a"(a) : : "ebx", "ecx", "edx", "memory");
}

static void rounds(u32 cpu)
{
	u32 wrong = 0;

	add(JOINED, 1);
	for (u32 r = 1; r <= ROUNDS; r++) {
		while (*FLAG < r)
			;
		serialise();
		wrong += ((u32(*)(void))CODE)() != (r << 16 | r);
		ANSWER[cpu * 1024] = r;
	}
	SUMS[16 + cpu] = wrong;
}

/* They start in real mode, where the page says that they come here. */
static void start_others(void)
{
	static const u8 jump[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 }; /* to the ROM's first byte */
	volatile u8 *at = (volatile u8 *)(VECTOR << 12);

	for (u32 i = 0; i < sizeof(jump); i++)
		at[i] = jump[i];
	*APIC(0x300) = 0xc4500;
	linger(100000);
	*APIC(0x300) = 0xc4600 | VECTOR;
}

static void node(u32 cpu)
{
	if (cpu == 0) {
		say("rom", *ROM);
		if (*FLAG == OVER)
			orders();
		start_others();
	}
	rounds(cpu);
	add_all();
	if (cpu != 0)
		for (;;)
			__asm__ volatile("hlt");
	for (u32 i = 0; i < READERS; i++)
		say("wrong", SUMS[16 + i]);
	orders();
}
#endif

__attribute__((used)) void begin(u32 cpu)
{
	node(cpu);
	for (;;)
		;
}
