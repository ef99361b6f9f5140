// SPDX-License-Identifier: (LGPL-2.1 OR BSD-2-Clause)
/*
 * libexmap for C++20: pools, regions and thread handles that destroy themselves, spans in
 * place of pointers and lengths, and exceptions in place of error numbers
 *
 * Whatever is asked of single pages is answered page by page, as in C: such functions
 * return how many have failed, and throw only if nothing could be done at all.
 */
#ifndef LIBEXMAP_HPP
#define LIBEXMAP_HPP

#include <cerrno>
#include <cstddef>
#include <exception>
#include <memory>
#include <span>
#include <stdexcept>
#include <system_error>
#include <type_traits>
#include <utility>

#include "libexmap.h"

namespace exm {

/* What a function of the library has failed with; what() is exm_message() */
class error : public std::system_error {
public:
	explicit error(int ret) : std::system_error(-ret, std::generic_category(), exm_message())
	{
	}
};

/* A slot that was touched has no page: see try_read() */
class empty_slot : public std::exception {
public:
	const char *what() const noexcept override
	{
		return "a slot that was touched has no page";
	}
};

inline int check(int ret)
{
	if (ret < 0)
		throw error(ret);
	return ret;
}

/* An amount of memory. It must outlive its regions and thread handles. */
class pool {
public:
	explicit pool(const exm_pool_options &options)
	{
		exm_pool *made;

		check(exm_pool_create(&made, &options));
		pool_.reset(made);
	}

	explicit pool(std::uint64_t memory) : pool(of_size(memory))
	{
	}

	exm_backend backend() const { return exm_pool_backend(get()); }
	unsigned int features() const { return exm_pool_features(get()); }
	void resize(std::uint64_t memory) { check(exm_pool_resize(get(), memory)); }

	exm_stats stats() const
	{
		exm_stats stats;

		check(exm_pool_stats(get(), &stats));
		return stats;
	}

	exm_pool *get() const { return pool_.get(); }

private:
	struct destroy {
		void operator()(exm_pool *pool) const { exm_pool_destroy(pool); }
	};
	std::unique_ptr<exm_pool, destroy> pool_;

	static exm_pool_options of_size(std::uint64_t memory)
	{
		exm_pool_options options{};

		options.memory = memory;
		return options;
	}
};

/* A range of slots, and possibly the file that belongs to it */
class region {
public:
	region(pool &of, const exm_region_options &options)
	{
		exm_region *made;

		check(exm_region_create(&made, of.get(), &options));
		region_.reset(made);
	}

	unsigned int number() const { return exm_region_number(get()); }
	std::uint64_t slots() const { return exm_region_slots(get()); }
	std::size_t slot_size() const { return exm_region_slot_size(get()); }
	void flush() { check(exm_region_flush(get())); }

	/* The memory of a slot. Touching it while the slot is empty raises SIGSEGV. */
	std::span<std::byte> slot(std::uint64_t number) const
	{
		auto start = static_cast<std::byte *>(exm_region_start(get()));

		return { start + number * slot_size(), slot_size() };
	}

	/* Set a byte, enum exm_slot, for each of the slots from first on */
	void query(std::uint64_t first, std::span<std::uint8_t> slots) const
	{
		check(exm_region_query(get(), first, slots.size(), slots.data()));
	}

	exm_region *get() const { return region_.get(); }

private:
	struct destroy {
		void operator()(exm_region *region) const { exm_region_destroy(region); }
	};
	std::unique_ptr<exm_region, destroy> region_;
};

/* What calls are made through; each thread makes its own */
class thread {
public:
	explicit thread(pool &of)
	{
		exm_thread *made;

		check(exm_thread_create(&made, of.get()));
		thread_.reset(made);
	}

	/* Carry out vectors; there is a result for each of them */
	int call(std::span<const exm_vec> vecs, std::span<exm_result> results)
	{
		need(results.size() >= vecs.size());
		return check(exm_call(get(), vecs.data(), results.data(), vecs.size()));
	}

	/* Do one thing to a list of slots. The results may be left out. */
	int alloc(region &in, std::span<const std::uint64_t> slots, std::span<int> results = {})
	{
		return list(exm_alloc, in, slots, results);
	}

	int free(region &in, std::span<const std::uint64_t> slots, std::span<int> results = {})
	{
		return list(exm_free, in, slots, results);
	}

	int read(region &in, std::span<const std::uint64_t> slots, std::span<int> results = {})
	{
		return list(exm_read, in, slots, results);
	}

	int write(region &in, std::span<const std::uint64_t> slots, std::span<int> results = {})
	{
		return list(exm_write, in, slots, results);
	}

	int move(region &in, std::span<const std::uint64_t> slots, unsigned int node,
		 std::span<int> results = {})
	{
		need(results.empty() || results.size() >= slots.size());
		return check(exm_move(get(), in.get(), slots.data(), slots.size(), node,
				      results.empty() ? nullptr : results.data()));
	}

	exm_thread *get() const { return thread_.get(); }

private:
	struct destroy {
		void operator()(exm_thread *thread) const { exm_thread_destroy(thread); }
	};
	std::unique_ptr<exm_thread, destroy> thread_;

	static void need(bool enough)
	{
		if (!enough)
			throw std::length_error("libexmap: fewer results than slots or vectors");
	}

	int list(decltype(exm_read) function, region &in, std::span<const std::uint64_t> slots,
		 std::span<int> results)
	{
		need(results.empty() || results.size() >= slots.size());
		return check(function(get(), in.get(), slots.data(), slots.size(),
				      results.empty() ? nullptr : results.data()));
	}
};

/*
 * Readers without locks. What they call runs until it touches a slot that is empty, and is
 * left at that point without destructors: it must hold no lock, own nothing, and return
 * something that needs no destructor. Call exm_reader_install() once before.
 */
namespace detail {

template <typename Read, bool Restart>
auto read_guarded(Read &read)
{
	using result = std::invoke_result_t<Read &>;
	exm_reader reader;

	static_assert(std::is_void_v<result> || std::is_trivially_destructible_v<result>);
	if (exm_reader_begin(&reader) && !Restart) {
		exm_reader_end(&reader);
		throw empty_slot();
	}
	try {
		if constexpr (std::is_void_v<result>) {
			read();
			exm_reader_end(&reader);
		} else {
			result value = read();

			exm_reader_end(&reader);
			return value;
		}
	} catch (...) {
		exm_reader_end(&reader);
		throw;
	}
}

} // namespace detail

/* Start over as often as an empty slot is touched: another thread brings the page in */
template <typename Read>
auto read_again(Read &&read)
{
	return detail::read_guarded<std::remove_reference_t<Read>, true>(read);
}

/* Throw empty_slot if an empty slot is touched, so that the caller brings the page in */
template <typename Read>
auto try_read(Read &&read)
{
	return detail::read_guarded<std::remove_reference_t<Read>, false>(read);
}

} // namespace exm

#endif
