// SPDX-License-Identifier: LGPL-2.1 OR BSD-2-Clause
//! Declarations of libexmap: see `libexmap.h` and libexmap(3).

#![allow(non_camel_case_types)]

use std::os::raw::{c_char, c_int, c_uint, c_void};

pub const EXM_PAGE_SIZE: u64 = 4096;
pub const EXM_MAX_SLOT_SIZE: u64 = 2 << 20;

pub const EXM_BACKEND_AUTO: u32 = 0;
pub const EXM_BACKEND_EXMAP: u32 = 1;
pub const EXM_BACKEND_STOCK: u32 = 2;

pub const EXM_FEATURE_FAULTS: u32 = 1;
pub const EXM_FEATURE_DIRTY: u32 = 2;
pub const EXM_FEATURE_WHOLE_READS: u32 = 4;

pub const EXM_POOL_DEFERRED: u64 = 1;
pub const EXM_POOL_NO_FAULTS: u64 = 2;
pub const EXM_POOL_TOUCH: u64 = 4;

pub const EXM_READ: u8 = 0;
pub const EXM_ALLOC: u8 = 1;
pub const EXM_FREE: u8 = 2;
pub const EXM_WRITE: u8 = 3;
pub const EXM_MOVE: u8 = 4;

pub const EXM_ZERO: u8 = 1;
pub const EXM_ALL_OR_NOTHING: u8 = 2;
pub const EXM_REPLACE: u8 = 4;
pub const EXM_DIRTY: u8 = 8;
pub const EXM_DSYNC: u8 = 16;

pub const EXM_SLOT_RESIDENT: u8 = 1;
pub const EXM_SLOT_DIRTY: u8 = 2;
pub const EXM_SLOT_USED: u8 = 4;
pub const EXM_SLOT_BUSY: u8 = 8;

#[repr(C)]
pub struct exm_pool {
    _private: [u8; 0],
}

#[repr(C)]
pub struct exm_region {
    _private: [u8; 0],
}

#[repr(C)]
pub struct exm_thread {
    _private: [u8; 0],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct exm_pool_options {
    pub memory: u64,
    pub threads: u32,
    pub backend: u32,
    pub flags: u64,
    pub reserved: [u64; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct exm_region_options {
    pub length: u64,
    pub offset: u64,
    pub fd: i32,
    pub flags: u32,
    pub slot_size: u64,
    pub reserved: [u64; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct exm_vec {
    pub page: u64,
    pub region: u16,
    pub len: u16,
    pub node: u16,
    pub flags: u8,
    pub opcode: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct exm_result {
    pub res: i32,
    pub pages: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct exm_stats {
    pub memory: u64,
    pub used: u64,
    pub regions: u64,
    pub reserved: [u64; 5],
}

extern "C" {
    pub fn exm_pool_create(pool: *mut *mut exm_pool, options: *const exm_pool_options) -> c_int;
    pub fn exm_pool_destroy(pool: *mut exm_pool);
    pub fn exm_pool_backend(pool: *const exm_pool) -> c_uint;
    pub fn exm_pool_features(pool: *const exm_pool) -> c_uint;
    pub fn exm_pool_resize(pool: *mut exm_pool, memory: u64) -> c_int;
    pub fn exm_pool_stats(pool: *mut exm_pool, stats: *mut exm_stats) -> c_int;

    pub fn exm_region_create(
        region: *mut *mut exm_region,
        pool: *mut exm_pool,
        options: *const exm_region_options,
    ) -> c_int;
    pub fn exm_region_destroy(region: *mut exm_region);
    pub fn exm_region_number(region: *const exm_region) -> c_uint;
    pub fn exm_region_start(region: *const exm_region) -> *mut c_void;
    pub fn exm_region_slots(region: *const exm_region) -> u64;
    pub fn exm_region_slot_size(region: *const exm_region) -> u64;
    pub fn exm_region_flush(region: *mut exm_region) -> c_int;
    pub fn exm_region_query(
        region: *mut exm_region,
        first: u64,
        nr: u64,
        slots: *mut u8,
    ) -> c_int;

    pub fn exm_thread_create(thread: *mut *mut exm_thread, pool: *mut exm_pool) -> c_int;
    pub fn exm_thread_destroy(thread: *mut exm_thread);
    pub fn exm_call(
        thread: *mut exm_thread,
        vecs: *const exm_vec,
        results: *mut exm_result,
        nr: c_uint,
    ) -> c_int;

    pub fn exm_reader_install() -> c_int;
    pub fn exm_message() -> *const c_char;

    /// In this crate: copies from a region, and returns `-EFAULT` where a slot is empty.
    pub fn exm_sys_copy(to: *mut c_void, from: *const c_void, size: usize) -> c_int;
}
