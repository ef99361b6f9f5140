// SPDX-License-Identifier: LGPL-2.1 OR BSD-2-Clause
//! The crate, with exmap where the kernel has it, and without

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use exmap::{Backend, Errno, Opcode, Pool, PoolOptions, RegionOptions, Vector};

const PAGE: u64 = 4096;

fn pools() -> Vec<Pool> {
    let make = |backend, deferred| {
        Pool::with_options(&PoolOptions { memory: 64 * PAGE, threads: 2, backend, deferred })
    };
    let mut pools = vec![make(Backend::Stock, false).unwrap()];
    if fs::metadata("/dev/exmap").is_ok() {
        pools.push(make(Backend::Exmap, false).unwrap());
        pools.push(make(Backend::Exmap, true).unwrap());
    }
    pools
}

fn file(name: &str, pages: u64) -> File {
    let path = std::env::temp_dir().join(format!("exmap-{}-{}", name, std::process::id()));
    let mut file = File::options().read(true).write(true).create(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    for page in 0..pages {
        file.write_all(&[page as u8; PAGE as usize]).unwrap();
    }
    file
}

#[test]
fn pages_come_and_go() {
    for pool in pools() {
        let region = pool.region(&RegionOptions { length: 1 << 30, ..Default::default() }).unwrap();
        let mut thread = pool.thread().unwrap();
        let mut byte = [0];

        assert_eq!(region.slots(), (1 << 30) / PAGE);
        let results = thread
            .call(&[
                Vector::new(&region, Opcode::Alloc, 5, 10),
                Vector::new(&region, Opcode::Free, 6, 2),
                Vector::new(&region, Opcode::Free, 1 << 40, 2),
            ])
            .unwrap();
        assert_eq!(results[..2], [Ok(10), Ok(2)]);
        assert!(matches!(results[2], Err(Errno(_))));
        assert_eq!(region.resident(5, 4).unwrap(), [true, false, false, true]);
        unsafe { region.slot_mut(5)[9] = 77 };
        region.copy(5 * PAGE + 9, &mut byte).unwrap();
        assert_eq!(byte, [77]);
        if pool.faults() {
            assert_eq!(region.copy(6 * PAGE, &mut byte).unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert_eq!(
            region.copy(region.len() - 1, &mut [0; 2]).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        assert_eq!(
            thread.call(&[Vector::new(&region, Opcode::Alloc, 100, 100)]).unwrap(),
            [Err(Errno(12))]
        );
        pool.resize(128 * PAGE).unwrap();
        assert_eq!(
            thread.call(&[Vector::new(&region, Opcode::Alloc, 100, 100)]).unwrap().len(),
            1
        );
        assert!(pool.used().unwrap() >= 100 * PAGE);
    }
}

#[test]
fn a_file_is_read_and_written() {
    for pool in pools() {
        let file = file("rw", 8);
        let region = pool.region(&RegionOptions::for_file(&file, 8 * PAGE)).unwrap();
        let mut thread = pool.thread().unwrap();
        let mut page = [0; PAGE as usize];

        thread.each(&region, Opcode::Read, &[3, 7]).unwrap();
        region.copy(7 * PAGE, &mut page).unwrap();
        assert!(page.iter().all(|&byte| byte == 7));
        unsafe { region.slot_mut(3).fill(99) };
        assert_eq!(
            thread.call(&[Vector::new(&region, Opcode::Write, 3, 1).dirty().dsync()]).unwrap(),
            [Ok(1)]
        );
        thread.each(&region, Opcode::Free, &[3, 7]).unwrap();
        thread.each(&region, Opcode::Read, &[3]).unwrap();
        region.copy(3 * PAGE, &mut page).unwrap();
        assert!(page.iter().all(|&byte| byte == 99));
        // There is no page to be written
        assert!(thread.each(&region, Opcode::Write, &[5]).is_err());
    }
}

#[test]
fn readers_beside_an_evictor() {
    for pool in pools() {
        let file = file("beside", 32);
        let region = pool.region(&RegionOptions::for_file(&file, 32 * PAGE)).unwrap();
        let stop = AtomicBool::new(false);

        thread::scope(|scope| {
            for reader in 0..2 {
                let (region, stop, pool) = (&region, &stop, &pool);
                scope.spawn(move || {
                    let mut seen = 0u64;
                    let mut page = [0; PAGE as usize];
                    while !stop.load(Ordering::Relaxed) || seen == 0 {
                        let slot = (seen * 7 + reader) % 32;
                        if region.copy(slot * PAGE, &mut page).is_ok() && pool.faults() {
                            // The other backend shows pages that are read in part
                            let known = page[0] == slot as u8 || page[0] == 0;
                            assert!(known, "slot {} has {}", slot, page[0]);
                        }
                        seen += 1;
                    }
                });
            }
            let mut thread = pool.thread().unwrap();
            for round in 0..2000u64 {
                let slots = [round % 32, (round * 5 + 3) % 32];
                thread.each(&region, Opcode::Read, &slots).unwrap();
                thread.each(&region, Opcode::Free, &slots).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn errors_are_explained() {
    let err = Pool::new(1).err().unwrap();
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    assert!(err.to_string().contains("multiple"), "{}", err);
}
