// SPDX-License-Identifier: LGPL-2.1 OR BSD-2-Clause
//! A virtual range whose pages a buffer manager places itself.
//!
//! A [`Pool`] is an amount of memory. A [`Region`] is a range of addresses, made of slots of
//! one size, and possibly the file that belongs to it. A slot is empty, or has a page of the
//! pool; only the calls of a [`Thread`] change which. Where the kernel has exmap, it is used;
//! elsewhere, anonymous memory does the same.
//!
//! What is in a slot can be read without locks, while other threads evict it:
//! [`Region::copy`] tells whether there was a page. A program that knows that nothing evicts a
//! slot can have a slice of it, which is `unsafe`.
//!
//! ```
//! use exmap::{Opcode, Pool, RegionOptions, Vector};
//!
//! let pool = Pool::new(1 << 20)?;
//! let region = pool.region(&RegionOptions { length: 1 << 30, ..Default::default() })?;
//! let mut thread = pool.thread()?;
//! let results = thread.call(&[Vector::new(&region, Opcode::Alloc, 7, 3)])?;
//! assert_eq!(results[0], Ok(3));
//! let mut word = [0u8; 8];
//! region.copy(7 * 4096, &mut word)?;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::ffi::CStr;
use std::io;
use std::marker::PhantomData;
use std::os::unix::io::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use exmap_sys as sys;

/// What the library does in the kernel, or in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// exmap if the kernel has it.
    Auto,
    Exmap,
    /// Any Linux kernel.
    Stock,
}

/// How to make a [`Pool`].
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// Bytes that the pages may take, a multiple of 4096.
    pub memory: u64,
    /// Threads that do not share locks; 0: as many as CPUs.
    pub threads: u32,
    pub backend: Backend,
    /// One TLB shootdown serves many evictions.
    pub deferred: bool,
}

/// How to make a [`Region`].
#[derive(Clone, Copy, Debug)]
pub struct RegionOptions {
    /// Bytes of addresses.
    pub length: u64,
    /// The file that belongs to it, which the library keeps open.
    pub file: Option<RawFd>,
    /// Byte of the file that is the first one of the region.
    pub offset: u64,
    /// A power of two from 4096 to 2 MiB.
    pub slot_size: u64,
}

impl Default for RegionOptions {
    fn default() -> Self {
        Self { length: 0, file: None, offset: 0, slot_size: sys::EXM_PAGE_SIZE }
    }
}

/// What is done to the slots of a [`Vector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Read = sys::EXM_READ,
    Alloc = sys::EXM_ALLOC,
    Free = sys::EXM_FREE,
    Write = sys::EXM_WRITE,
    Move = sys::EXM_MOVE,
}

/// Some adjacent slots of a region, and what is done to them.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Vector<'a> {
    raw: sys::exm_vec,
    region: PhantomData<&'a Region>,
}

impl<'a> Vector<'a> {
    pub fn new(region: &'a Region, opcode: Opcode, slot: u64, len: u16) -> Self {
        let raw = sys::exm_vec {
            page: slot,
            region: region.number(),
            len,
            opcode: opcode as u8,
            ..Default::default()
        };
        Self { raw, region: PhantomData }
    }

    fn with(mut self, flag: u8) -> Self {
        self.raw.flags |= flag;
        self
    }

    /// `Alloc`: pages of zeroes. `Read`: zeroes past the end of the file.
    pub fn zero(self) -> Self {
        self.with(sys::EXM_ZERO)
    }

    /// `Alloc`: on failure, everything is as it was.
    pub fn all_or_nothing(self) -> Self {
        self.with(sys::EXM_ALL_OR_NOTHING)
    }

    /// `Write`: only what has changed.
    pub fn dirty(self) -> Self {
        self.with(sys::EXM_DIRTY)
    }

    /// `Write`: to stable storage.
    pub fn dsync(self) -> Self {
        self.with(sys::EXM_DSYNC)
    }

    /// `Move`: the NUMA node.
    pub fn node(mut self, node: u16) -> Self {
        self.raw.node = node;
        self
    }
}

fn failed(ret: i32) -> io::Error {
    let kind = io::Error::from_raw_os_error(-ret).kind();
    // The library explains the last failure of the thread, and its text ends with a zero
    let text = unsafe { CStr::from_ptr(sys::exm_message()) };
    io::Error::new(kind, text.to_string_lossy().into_owned())
}

fn check(ret: i32) -> io::Result<i32> {
    if ret < 0 {
        Err(failed(ret))
    } else {
        Ok(ret)
    }
}

struct RawPool(NonNull<sys::exm_pool>);

// The functions of pools and regions may be called by any thread at any time
unsafe impl Send for RawPool {}
unsafe impl Sync for RawPool {}

impl Drop for RawPool {
    fn drop(&mut self) {
        unsafe { sys::exm_pool_destroy(self.0.as_ptr()) }
    }
}

/// An amount of memory that regions share. Clones are the same pool.
#[derive(Clone)]
pub struct Pool(Arc<RawPool>);

impl Pool {
    /// Make a pool of so many bytes.
    pub fn new(memory: u64) -> io::Result<Self> {
        Self::with_options(&PoolOptions {
            memory,
            threads: 0,
            backend: Backend::Auto,
            deferred: false,
        })
    }

    pub fn with_options(options: &PoolOptions) -> io::Result<Self> {
        let raw = sys::exm_pool_options {
            memory: options.memory,
            threads: options.threads,
            backend: match options.backend {
                Backend::Auto => sys::EXM_BACKEND_AUTO,
                Backend::Exmap => sys::EXM_BACKEND_EXMAP,
                Backend::Stock => sys::EXM_BACKEND_STOCK,
            },
            flags: if options.deferred { sys::EXM_POOL_DEFERRED } else { 0 },
            ..Default::default()
        };
        let mut pool = ptr::null_mut();
        // Region::copy() needs the handler
        check(unsafe { sys::exm_reader_install() })?;
        check(unsafe { sys::exm_pool_create(&mut pool, &raw) })?;
        Ok(Self(Arc::new(RawPool(NonNull::new(pool).expect("a pool")))))
    }

    fn raw(&self) -> *mut sys::exm_pool {
        self.0 .0.as_ptr()
    }

    /// Which backend is in use.
    pub fn backend(&self) -> Backend {
        match unsafe { sys::exm_pool_backend(self.raw()) } {
            sys::EXM_BACKEND_EXMAP => Backend::Exmap,
            _ => Backend::Stock,
        }
    }

    /// Whether touching an empty slot raises `SIGSEGV`.
    pub fn faults(&self) -> bool {
        unsafe { sys::exm_pool_features(self.raw()) & sys::EXM_FEATURE_FAULTS != 0 }
    }

    /// Change the number of bytes.
    pub fn resize(&self, memory: u64) -> io::Result<()> {
        check(unsafe { sys::exm_pool_resize(self.raw(), memory) }).map(|_| ())
    }

    /// Bytes that pages take.
    pub fn used(&self) -> io::Result<u64> {
        let mut stats = sys::exm_stats::default();
        check(unsafe { sys::exm_pool_stats(self.raw(), &mut stats) })?;
        Ok(stats.used)
    }

    pub fn region(&self, options: &RegionOptions) -> io::Result<Region> {
        let raw = sys::exm_region_options {
            length: options.length,
            offset: options.offset,
            fd: options.file.unwrap_or(-1),
            slot_size: options.slot_size,
            ..Default::default()
        };
        let mut region = ptr::null_mut();
        check(unsafe { sys::exm_region_create(&mut region, self.raw(), &raw) })?;
        Ok(Region { raw: NonNull::new(region).expect("a region"), _pool: self.clone() })
    }

    /// A handle through which one thread makes its calls.
    pub fn thread(&self) -> io::Result<Thread> {
        let mut thread = ptr::null_mut();
        check(unsafe { sys::exm_thread_create(&mut thread, self.raw()) })?;
        Ok(Thread { raw: NonNull::new(thread).expect("a thread"), _pool: self.clone() })
    }
}

/// A range of addresses, made of slots.
pub struct Region {
    raw: NonNull<sys::exm_region>,
    _pool: Pool,
}

// See RawPool
unsafe impl Send for Region {}
unsafe impl Sync for Region {}

impl Region {
    fn number(&self) -> u16 {
        unsafe { sys::exm_region_number(self.raw.as_ptr()) as u16 }
    }

    pub fn slots(&self) -> u64 {
        unsafe { sys::exm_region_slots(self.raw.as_ptr()) }
    }

    pub fn slot_size(&self) -> u64 {
        unsafe { sys::exm_region_slot_size(self.raw.as_ptr()) }
    }

    /// Bytes of addresses.
    pub fn len(&self) -> u64 {
        self.slots() * self.slot_size()
    }

    pub fn is_empty(&self) -> bool {
        self.slots() == 0
    }

    /// Where the region begins. What it points to comes and goes.
    pub fn as_ptr(&self) -> *mut u8 {
        unsafe { sys::exm_region_start(self.raw.as_ptr()).cast() }
    }

    /// Copy bytes out of the region, without a lock. [`io::ErrorKind::NotFound`] says that a
    /// slot is empty; `to` may have been changed. What other threads write meanwhile may be
    /// there in part: readers compare a version that they have read before.
    ///
    /// Where [`Pool::faults`] is false, the bytes of an empty slot are zeroes.
    pub fn copy(&self, at: u64, to: &mut [u8]) -> io::Result<()> {
        self.check_range(at, to.len())?;
        let from = self.as_ptr().wrapping_add(at as usize);
        match unsafe { sys::exm_sys_copy(to.as_mut_ptr().cast(), from.cast(), to.len()) } {
            0 => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "a slot is empty")),
        }
    }

    fn check_range(&self, at: u64, len: usize) -> io::Result<()> {
        if at > self.len() || len as u64 > self.len() - at {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "outside of the region"));
        }
        Ok(())
    }

    /// A slot, to read and write.
    ///
    /// # Safety
    ///
    /// The slot must be resident, and stay so, and nothing else may access it, as long as the
    /// slice is there.
    ///
    /// # Panics
    ///
    /// If there is no such slot.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slot_mut(&self, slot: u64) -> &mut [u8] {
        assert!(slot < self.slots());
        let size = self.slot_size() as usize;
        std::slice::from_raw_parts_mut(self.as_ptr().add(slot as usize * size), size)
    }

    /// Whether slots are resident.
    pub fn resident(&self, first: u64, nr: usize) -> io::Result<Vec<bool>> {
        let mut slots = vec![0; nr];
        check(unsafe {
            sys::exm_region_query(self.raw.as_ptr(), first, nr as u64, slots.as_mut_ptr())
        })?;
        Ok(slots.iter().map(|slot| slot & sys::EXM_SLOT_RESIDENT != 0).collect())
    }

    /// With deferred flushes: do the flush now.
    pub fn flush(&self) -> io::Result<()> {
        check(unsafe { sys::exm_region_flush(self.raw.as_ptr()) }).map(|_| ())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        unsafe { sys::exm_region_destroy(self.raw.as_ptr()) }
    }
}

/// A handle through which one thread makes its calls.
pub struct Thread {
    raw: NonNull<sys::exm_thread>,
    _pool: Pool,
}

// One thread at a time, but not always the same
unsafe impl Send for Thread {}

impl Thread {
    /// Carry out vectors in their order. For each: the number of slots that have changed, or
    /// the error. A vector that fails does not stop those behind it.
    pub fn call(&mut self, vectors: &[Vector]) -> io::Result<Vec<Result<u32, Errno>>> {
        let mut results = vec![sys::exm_result::default(); vectors.len()];
        // A Vector has the layout of what it wraps
        check(unsafe {
            sys::exm_call(
                self.raw.as_ptr(),
                vectors.as_ptr().cast(),
                results.as_mut_ptr(),
                vectors.len() as u32,
            )
        })?;
        Ok(results
            .iter()
            .map(|result| match result.res {
                0 => Ok(result.pages),
                err => Err(Errno(-err)),
            })
            .collect())
    }

    /// Do one thing to a list of slots. The first error is returned when all are done.
    pub fn each(&mut self, region: &Region, opcode: Opcode, slots: &[u64]) -> io::Result<()> {
        let vectors: Vec<_> =
            slots.iter().map(|&slot| Vector::new(region, opcode, slot, 1)).collect();
        match self.call(&vectors)?.into_iter().find_map(Result::err) {
            Some(Errno(err)) => Err(io::Error::from_raw_os_error(err)),
            None => Ok(()),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        unsafe { sys::exm_thread_destroy(self.raw.as_ptr()) }
    }
}

/// Why a vector has failed: a positive error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

impl RegionOptions {
    /// A region for a file, with addresses for all of it.
    pub fn for_file(file: &impl AsRawFd, length: u64) -> Self {
        Self { length, file: Some(file.as_raw_fd()), ..Default::default() }
    }
}
