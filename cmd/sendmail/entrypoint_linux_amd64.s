#include "textflag.h"

#define SYS_prctl 157
#define PR_SET_TIMERSLACK 29
#define PR_GET_TIMERSLACK 30
#define SYS_prlimit64 302
#define RLIMIT_NOFILE 7

// entryPoint is where the kernel begins with sendmail as make builds it (-E main.entryPoint). It goes on to where Go's
// runtime begins, as a program without it does at once.
//
// Most of what a submission costs is the start of the runtime, and a quarter of the whole is for what a process that does
// one thing has no use for. It is too late to say so in Go. So we say it here:
//
//   - Waiting may take 1 ms longer than asked for (prctl(2), PR_SET_TIMERSLACK): the runtime's monitor wakes once or
//     twice, and not every 70 µs.
//   - No more descriptors can be had than standard input and output (getrlimit(2), RLIMIT_NOFILE): the runtime finds no
//     limits of containers in /proc and /sys, which takes it 0.1 ms, and which the next point leaves without effect.
//     It goes on as where there are none.
//   - GOMAXPROCS=1 comes first in the environment. What stands on the stack is argc, the arguments, NULL, the
//     environment, NULL, and more (System V ABI for AMD64, 3.4.1): the words up to the first NULL move down by one.
//
// Descriptors can be had again from harden on. What we start has everything as the caller had it: see asCalled and
// environment.
TEXT ·entryPoint(SB), NOSPLIT|NOFRAME, $0
	MOVL $SYS_prctl, AX
	MOVL $PR_GET_TIMERSLACK, DI
	SYSCALL
	MOVQ AX, ·timerSlack(SB)
	MOVL $SYS_prctl, AX
	MOVL $PR_SET_TIMERSLACK, DI
	MOVL $1000000, SI // ns
	SYSCALL

	MOVL  $SYS_prlimit64, AX
	XORL  DI, DI
	MOVL  $RLIMIT_NOFILE, SI
	XORL  DX, DX
	LEAQ  ·descriptors(SB), R10
	SYSCALL
	TESTQ AX, AX
	JNZ   processors
	PUSHQ ·descriptors+8(SB) // the hard limit stays
	PUSHQ $3
	MOVL  $SYS_prlimit64, AX
	XORL  DI, DI
	MOVL  $RLIMIT_NOFILE, SI
	MOVQ  SP, DX
	XORL  R10, R10
	SYSCALL
	ADDQ  $16, SP

processors:
	MOVQ 0(SP), CX
	ADDQ $2, CX // argc itself, and NULL
	MOVQ SP, SI
	LEAQ -8(SP), DI
	MOVQ DI, SP
	CLD
	REP; MOVSQ
	LEAQ ·oneProcessor(SB), AX
	MOVQ AX, 0(DI)
	JMP  _rt0_amd64_linux(SB)

DATA ·oneProcessor+0(SB)/8, $"GOMAXPRO"
DATA ·oneProcessor+8(SB)/8, $"CS=1\x00\x00\x00\x00"
GLOBL ·oneProcessor(SB), RODATA|NOPTR, $16
