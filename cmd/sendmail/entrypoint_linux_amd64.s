#include "textflag.h"

#define SYS_prctl 157
#define PR_SET_TIMERSLACK 29
#define PR_GET_TIMERSLACK 30

// entryPoint is where the kernel begins with sendmail as make builds it (-E main.entryPoint). It goes on to where Go's
// runtime begins, as a program without it does at once.
//
// Most of what a submission costs is the start of the runtime, and a fifth of the whole is for what a process that does
// one thing has no use for: threads for every processor, and a monitor that wakes every 70 µs. It is too late to say so
// in Go. So we say it here:
//
//   - Waiting may take 1 ms longer than asked for (prctl(2), PR_SET_TIMERSLACK): the monitor wakes once or twice.
//   - GOMAXPROCS=1 comes first in the environment. What stands on the stack is argc, the arguments, NULL, the
//     environment, NULL, and more (System V ABI for AMD64, 3.4.1): the words up to the first NULL move down by one.
//
// What we start gets neither: see asCalled and environment.
TEXT ·entryPoint(SB), NOSPLIT|NOFRAME, $0
	MOVL $SYS_prctl, AX
	MOVL $PR_GET_TIMERSLACK, DI
	SYSCALL
	MOVQ AX, ·timerSlack(SB)
	MOVL $SYS_prctl, AX
	MOVL $PR_SET_TIMERSLACK, DI
	MOVL $1000000, SI // ns
	SYSCALL

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
