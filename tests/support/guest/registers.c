// For linux.uml on processors whose registers take more room than it knows of: Linux takes a set of them whole only (xstateregs_set in
// arch/x86/kernel/fpu/regset.c, EFAULT otherwise). What it writes is put into the whole set that the process has.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

// The set's name in elf.h.
#define NT_X86_XSTATE 0x202

typedef long (*ptrace_call)(enum __ptrace_request, pid_t, void *, void *);

long ptrace(enum __ptrace_request request, ...) {
  static ptrace_call real;
  if (!real) real = (ptrace_call)dlsym(RTLD_NEXT, "ptrace");
  va_list rest;
  va_start(rest, request);
  pid_t pid = va_arg(rest, pid_t);
  void *address = va_arg(rest, void *);
  void *data = va_arg(rest, void *);
  va_end(rest);
  long done = real(request, pid, address, data);
  if (done == 0 || request != PTRACE_SETREGSET || (long)address != NT_X86_XSTATE || errno != EFAULT) return done;
  static unsigned char all[65536] __attribute__((aligned(64)));
  struct iovec *known = data, whole = {all, sizeof all};
  if (real(PTRACE_GETREGSET, pid, address, &whole) != 0 || whole.iov_len < known->iov_len) return done;
  memcpy(all, known->iov_base, known->iov_len);
  return real(PTRACE_SETREGSET, pid, address, &whole);
}
