/* Prints the rate of this processor's time stamp counter in kHz, which is also that of the processors qemu emulates on it. */
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + 1e-9 * now.tv_nsec;
}

int main(void)
{
	double start = seconds();
	unsigned long long first = __rdtsc();
	while (seconds() - start < 0.25)
		;
	unsigned long long last = __rdtsc();
	printf("%.0f\n", (last - first) / (seconds() - start) / 1000);
	return 0;
}
