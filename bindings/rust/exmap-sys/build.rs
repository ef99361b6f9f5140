// SPDX-License-Identifier: LGPL-2.1 OR BSD-2-Clause
//! Compiles libexmap, so that nothing has to be installed. LIBEXMAP_DIR names another place
//! of its source than that in this repository.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|err| panic!("{:?}: {}", command, err));
    assert!(status.success(), "{:?}: {}", command, status);
}

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
    let library = env::var("LIBEXMAP_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|_| here.join("../../../tools/lib/exmap"));
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut sources = vec![here.join("src/copy.c")];
    let mut objects = Vec::new();

    for entry in fs::read_dir(&library).expect("the source of libexmap") {
        let path = entry.unwrap().path();
        if path.extension().map_or(false, |ext| ext == "c") {
            sources.push(path);
        }
    }
    for source in &sources {
        let object = out.join(Path::new(source.file_name().unwrap()).with_extension("o"));
        println!("cargo:rerun-if-changed={}", source.display());
        run(Command::new(&compiler)
            .args(["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-c", "-idirafter"])
            .arg(here.join("../../../include/uapi"))
            .arg("-I")
            .arg(&library)
            .arg(source)
            .arg("-o")
            .arg(&object));
        objects.push(object);
    }
    run(Command::new("ar")
        .arg("crs")
        .arg(out.join("libexmap.a"))
        .args(&objects));
    println!("cargo:rerun-if-env-changed=LIBEXMAP_DIR");
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=exmap");
}
