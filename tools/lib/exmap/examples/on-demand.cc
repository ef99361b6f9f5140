// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/*
 * Read slots of 16 KiB at random, and bring each of them in when it turns out to be missing:
 * on-demand FILE [ACCESSES]. Compares what it sees with what pread() says.
 */
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <random>
#include <sys/stat.h>
#include <unistd.h>

#include "libexmap.hpp"

constexpr std::size_t slot_size = 16384;

static int run(const char *path, unsigned long accesses)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat file;

	if (fd < 0 || fstat(fd, &file) || file.st_size < off_t(16 * slot_size)) {
		std::fprintf(stderr, "%s: not a file of 256 KiB or more\n", path);
		return 1;
	}
	const std::uint64_t slots = file.st_size / slot_size, room = slots / 8;
	exm_region_options options{};

	options.fd = fd;
	options.length = slots * slot_size;
	options.slot_size = slot_size;

	exm::pool pool(room * slot_size);
	exm::region region(pool, options);
	exm::thread thread(pool);
	std::deque<std::uint64_t> resident;
	std::mt19937_64 random(1);
	unsigned long misses = 0, wrong = 0;

	if (!(pool.features() & EXM_FEATURE_FAULTS)) {
		std::puts("this kernel does not tell when an empty slot is touched");
		close(fd);
		return 0;
	}
	exm::check(exm_reader_install());
	for (unsigned long i = 0; i < accesses; ) {
		const std::uint64_t slot = random() % slots, offset = random() % slot_size;

		for (;;) {
			try {
				const auto seen = exm::try_read([&] {
					return region.slot(slot)[offset];
				});
				std::byte there;

				wrong += pread(fd, &there, 1, slot * slot_size + offset) != 1 ||
					 there != seen;
				break;
			} catch (const exm::empty_slot &) {
				/* Make room, and read; another thread might do the same */
				if (resident.size() == room) {
					thread.free(region, { &resident.front(), 1 });
					resident.pop_front();
				}
				if (thread.read(region, { &slot, 1 }))
					throw std::runtime_error("a slot cannot be read");
				resident.push_back(slot);
				misses++;
			}
		}
		i++;
	}
	std::printf("%s: %lu accesses, %lu slots read, %lu wrong\n",
		    pool.backend() == EXM_BACKEND_EXMAP ? "exmap" : "stock kernel", accesses,
		    misses, wrong);
	close(fd);
	return wrong != 0 || misses < room;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		std::fprintf(stderr, "usage: %s FILE [ACCESSES]\n", argv[0]);
		return 1;
	}
	try {
		return run(argv[1], argc > 2 ? std::strtoul(argv[2], nullptr, 0) : 100000);
	} catch (const std::exception &error) {
		std::fprintf(stderr, "%s\n", error.what());
		return 1;
	}
}
