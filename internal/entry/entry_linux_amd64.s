#include "textflag.h"

#define SYS_prctl 157
#define PR_SET_TIMERSLACK 29
#define PR_GET_TIMERSLACK 30
#define SYS_prlimit64 302
#define RLIMIT_NOFILE 7

// point is where the kernel begins. It goes on to where Go's runtime begins, as it would without us.
//
// What stands on the stack is argc, the arguments, NULL, the environment, NULL, and more (System V ABI for AMD64, 3.4.1).
// To make room for another variable, all up to the second NULL moves down by a word.
TEXT ·point(SB), NOSPLIT|NOFRAME, $0
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
	JNZ   environment
	PUSHQ ·descriptors+8(SB) // the hard limit stays
	PUSHQ $3
	MOVL  $SYS_prlimit64, AX
	XORL  DI, DI
	MOVL  $RLIMIT_NOFILE, SI
	MOVQ  SP, DX
	XORL  R10, R10
	SYSCALL
	ADDQ  $16, SP

environment:
	MOVQ 0(SP), CX
	LEAQ 16(SP)(CX*8), DI // behind argc, the arguments, and NULL
	XORL AX, AX
	MOVQ $-1, CX
	CLD
	REPN; SCASQ           // DI is behind the second NULL
	LEAQ -8(DI), CX
	SUBQ SP, CX
	SHRQ $3, CX           // words before it
	MOVQ SP, SI
	LEAQ -8(SP), DI
	MOVQ DI, SP
	REP; MOVSQ
	LEAQ ·oneProcessor(SB), AX
	MOVQ AX, 0(DI)
	JMP  _rt0_amd64_linux(SB)

// func setDescriptors(limit *[2]uint64)
TEXT ·setDescriptors(SB), NOSPLIT, $0-8
	MOVL $SYS_prlimit64, AX
	XORL DI, DI
	MOVL $RLIMIT_NOFILE, SI
	MOVQ limit+0(FP), DX
	XORL R10, R10
	SYSCALL
	RET

// The same as Variable.
DATA ·oneProcessor+0(SB)/8, $"GOMAXPRO"
DATA ·oneProcessor+8(SB)/8, $"CS=01\x00\x00\x00"
GLOBL ·oneProcessor(SB), RODATA|NOPTR, $16
