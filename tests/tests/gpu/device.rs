//! Memory, recordings, results, and everything that can go wrong with them.

use std::time::Duration;

use ascribe_core::MatRef;
use ascribe_core::linop::apply_alloc;
use ascribe_core::random::Stream;
use ascribe_core::sketch::Sjlt;
use ascribe_gpu::interop::wgpu;
use ascribe_gpu::{Element, Error, Gpu, GpuOptions, Pending, Recorder, Submission};
use proptest::prelude::*;

use crate::{SMALL_BINDING, devices, open, small};

fn round_trip<T: Element + PartialEq>(gpu: &Gpu, data: &[T], rows: usize, cols: usize) -> Result<Vec<T>, Error> {
    // Rows apart, so that gaps have to be left out.
    let x = MatRef::with_stride(data, rows, cols, cols + 1)?;
    let x = gpu.upload(x)?;
    let mut recorder = gpu.record();
    let pending = recorder.download(&x)?;
    let counters = recorder.submit()?.counters();
    assert_eq!((counters.submissions, counters.dispatches, counters.bytes_down), (1, 0, x.bytes()));
    pending.wait()
}

proptest! {
    #[test]
    fn what_is_uploaded_comes_back(rows in 0_usize..70, cols in 0_usize..40, seed in any::<u32>()) {
        let len = rows * (cols + 1);
        let words: Vec<u32> = (0..len as u32).map(|i| (i ^ seed).wrapping_mul(0x9E37_79B9)).collect();
        let dense = |i: usize| i / cols.max(1) * (cols + 1) + i % cols.max(1);
        for gpu in devices() {
            let expected: Vec<u32> = (0..rows * cols).map(|i| words[dense(i)]).collect();
            prop_assert_eq!(&round_trip(gpu, &words, rows, cols).unwrap(), &expected);
            let bytes: Vec<i8> = words.iter().map(|w| *w as i8).collect();
            let expected: Vec<i8> = expected.iter().map(|w| *w as i8).collect();
            prop_assert_eq!(round_trip(gpu, &bytes, rows, cols).unwrap(), expected);
            let halves: Vec<u16> = words.iter().map(|w| *w as u16).collect();
            let expected: Vec<u16> = (0..rows * cols).map(|i| halves[dense(i)]).collect();
            prop_assert_eq!(round_trip(gpu, &halves, rows, cols).unwrap(), expected);
        }
    }
}

#[test]
fn a_recording_that_is_not_submitted_says_so() {
    for gpu in devices() {
        let mut recorder = gpu.record();
        let zeros = recorder.zeros::<f32>(3, 3).unwrap();
        let early = recorder.download(&zeros).unwrap();
        assert_eq!(early.wait(), Err(Error::NotSubmitted));
        let late = recorder.download(&zeros).unwrap();
        drop(recorder);
        assert_eq!(pollster::block_on(late), Err(Error::NotSubmitted));
    }
}

#[test]
fn matrices_of_another_device_are_refused() {
    let [one, other, ..] = devices() else { return };
    let x = one.upload(MatRef::from_row(&[1.0_f32])).unwrap();
    assert_eq!(other.record().download(&x).unwrap_err(), Error::Foreign);
}

#[test]
fn sizes_beyond_the_device_are_refused() {
    let Some(gpu) = open(&small()) else { return };
    let row = vec![0.0_f32; SMALL_BINDING as usize / 4 + 1];
    let error = gpu.upload(MatRef::from_row(&row)).unwrap_err();
    assert_eq!(error, Error::Limit { what: "bytes of a row", needed: SMALL_BINDING + 4, limit: SMALL_BINDING });
    let mut recorder = gpu.record();
    for (rows, cols) in [(usize::MAX, 1), (1 << 32, 1), (usize::MAX, usize::MAX), (usize::MAX, 0)] {
        let overflow = Error::Core(ascribe_core::Error::Overflow { what: "matrix on the device" });
        assert_eq!(recorder.zeros::<f32>(rows, cols).unwrap_err(), overflow);
    }
    assert!(matches!(recorder.zeros::<f32>(1, 1 << 31), Err(Error::Limit { .. })));
    assert_eq!(gpu.memory().0, 0);
}

#[test]
fn the_memory_allowed_is_a_limit() {
    let Some(gpu) = open(&GpuOptions { max_memory: Some(1 << 16), ..GpuOptions::default() }) else { return };
    let mut recorder = gpu.record();
    let half = recorder.zeros::<u32>(1 << 13, 1).unwrap();
    assert_eq!(recorder.zeros::<u32>(1 << 14, 1).unwrap_err(), Error::OutOfMemory { bytes: 1 << 16 });
    drop((half, recorder));
    // What was freed is there again, in another size.
    gpu.record().zeros::<u32>(1 << 14, 1).unwrap();
}

#[test]
fn memory_is_reused() {
    let Some(gpu) = open(&GpuOptions::default()) else { return };
    let data = vec![1.0_f32; 1000];
    let mut after_first = None;
    for _ in 0..1000 {
        let x = gpu.upload(MatRef::new(&data, 10, 100).unwrap()).unwrap();
        let mut recorder = gpu.record();
        let pending = recorder.download(&x).unwrap();
        recorder.submit().unwrap();
        pending.wait().unwrap();
        drop(x);
        assert_eq!(gpu.memory(), *after_first.get_or_insert(gpu.memory()));
    }
    assert_eq!(gpu.memory().0, 0);
    assert_eq!(gpu.counters().submissions, 1000);
}

/// A product that keeps the device busy for a while, and its result: ones.
fn long_work(gpu: &Gpu) -> (Submission, Pending<f32>) {
    let n = 512;
    let x = gpu.upload(MatRef::new(&vec![1.0 / n as f32; n * n], n, n).unwrap()).unwrap();
    let ones = gpu.upload(MatRef::new(&vec![1.0; n * n], n, n).unwrap()).unwrap();
    let mut recorder = gpu.record();
    let mut y = recorder.gemm(1.0, &x, &ones).unwrap();
    for _ in 0..3 {
        y = recorder.gemm(1.0, &x, &y).unwrap();
    }
    let y = recorder.download(&y).unwrap();
    (recorder.submit().unwrap(), y)
}

#[test]
fn waiting_has_an_end() {
    let Some(gpu) = open(&GpuOptions::default()) else { return };
    let (submission, pending) = long_work(&gpu);
    let result = pending.wait_for(Duration::ZERO);
    // A real GPU may be done already.
    if gpu.capabilities().software {
        assert_eq!(result, Err(Error::Timeout { waited: Duration::ZERO }));
    }
    // It was only waited for no longer.
    submission.wait().unwrap();
    let (_, pending) = long_work(&gpu);
    assert_eq!(pollster::block_on(pending).unwrap(), vec![1.0; 512 * 512]);
}

#[test]
fn destroyed_in_the_middle() {
    let lost = |error: Error| matches!(error, Error::DeviceLost { .. });
    let Some(gpu) = open(&GpuOptions::default()) else { return };
    let (submission, pending) = long_work(&gpu);
    gpu.destroy();
    assert!(pending.wait().is_err_and(lost));
    assert!(submission.wait().is_err_and(lost));
    assert!(gpu.upload(MatRef::from_row(&[1.0_f32])).is_err_and(lost));
    assert!(gpu.record().zeros::<f32>(1, 1).is_err_and(lost));
    // Recorded, but not yet submitted.
    let Some(gpu) = open(&GpuOptions::default()) else { return };
    let x = gpu.upload(MatRef::from_row(&[1.0_f32; 100])).unwrap();
    let mut recorder = gpu.record();
    let pending = recorder.download(&x).unwrap();
    gpu.destroy();
    assert!(recorder.submit().is_err_and(lost));
    assert!(pending.wait().is_err_and(lost));
}

/// A program may destroy its own device; nobody tells `Gpu`.
#[test]
fn destroyed_behind_its_back() {
    let lost = |error: Error| matches!(error, Error::DeviceLost { .. });
    let Some(owner) = open(&GpuOptions::default()) else { return };
    let (device, queue) = owner.parts();
    let gpu = Gpu::from_parts(device.clone(), queue.clone(), &GpuOptions::default());
    let x = gpu.upload(MatRef::from_row(&[1.0_f32; 100])).unwrap();
    let mut recorder = gpu.record();
    let pending = recorder.download(&x).unwrap();
    device.destroy();
    assert!(recorder.submit().and_then(|submission| submission.wait()).is_err_and(lost));
    assert!(pending.wait().is_err_and(lost));
}

#[test]
fn two_devices_on_several_threads() {
    std::thread::scope(|scope| {
        for (device, gpu) in devices().iter().enumerate() {
            for thread in 0..3 {
                scope.spawn(move || {
                    for i in 0..20 {
                        let value = (device * 1000 + thread * 100 + i) as u32;
                        let data = vec![value; 300];
                        let mut recorder = gpu.record();
                        let x = gpu.upload(MatRef::new(&data, 3, 100).unwrap()).unwrap();
                        let pending = recorder.download(&x).unwrap();
                        drop(x);
                        recorder.submit().unwrap();
                        let result = if i % 2 == 0 { pending.wait() } else { pollster::block_on(pending) };
                        assert_eq!(result.unwrap(), data);
                    }
                });
            }
        }
    });
}

#[test]
fn a_device_of_the_program() {
    let Some(owner) = open(&GpuOptions::default()) else { return };
    let (device, queue) = owner.parts();
    let gpu = Gpu::from_parts(device.clone(), queue.clone(), &GpuOptions::default());
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor { label: None, size: 24, usage, mapped_at_creation: false };
    let buffer = device.create_buffer(&descriptor);
    queue.write_buffer(&buffer, 0, &[7; 24]);
    assert!(matches!(gpu.wrap::<u32>(buffer.clone(), 7, 1), Err(Error::Limit { needed: 28, limit: 24, .. })));
    let x = gpu.wrap::<u32>(buffer, 2, 3).unwrap();
    let mut recorder = gpu.record();
    let pending = recorder.download(&x).unwrap();
    recorder.submit().unwrap();
    assert_eq!(pending.wait_for(Duration::from_mins(5)).unwrap(), [0x0707_0707; 6]);
    let usage = wgpu::BufferUsages::STORAGE;
    let unreadable = device.create_buffer(&wgpu::BufferDescriptor { usage, ..descriptor });
    assert!(matches!(gpu.wrap::<u32>(unreadable, 1, 1), Err(Error::MissingFeature { .. })));
}

#[test]
fn an_operation_that_fails_half_way_is_taken_back() {
    // Pieces of 32 rows, whose products are cut along k: each of the 64 wants memory for its slices.
    let limited = |max_memory| GpuOptions { max_binding_bytes: Some(1 << 17), max_memory, ..GpuOptions::default() };
    let product = |gpu: &Gpu| -> Result<_, Error> {
        let data = vec![1.0_f32; 256 * 1024];
        let x = gpu.upload(MatRef::new(&data, 256, 1024)?)?;
        let mut recorder = gpu.record();
        let mut c = recorder.zeros(256, 256)?;
        let (before, result) = (recorder.counters(), recorder.gemm_onto(&mut c, 1.0, 1.0, &x, x.t()));
        Ok((result, before, recorder.counters(), recorder.plan().steps.len(), gpu.memory().0))
    };
    let Some(gpu) = open(&limited(None)) else { return };
    let (result, before, after, _, needed) = product(&gpu).unwrap();
    assert_eq!(result, Ok(()));
    assert!(after.dispatches > before.dispatches);
    // Not enough for all of them.
    let Some(gpu) = open(&limited(Some(needed - 1))) else { return };
    let (result, before, after, steps, _) = product(&gpu).unwrap();
    assert!(matches!(result, Err(Error::OutOfMemory { .. })), "{result:?}");
    assert_eq!((before, steps), (after, 2), "nothing but the zeros of the output, in two pieces");
}

#[test]
fn work_that_takes_long_is_cut() {
    let data: Vec<f32> = (0..256 * 16).map(|i| (i % 7) as f32 - 3.0).collect();
    let products = |watchdog| {
        let gpu = open(&GpuOptions { watchdog, ..GpuOptions::default() })?;
        let x = gpu.upload(MatRef::new(&data, 256, 16).unwrap()).unwrap();
        let mut recorder = gpu.record();
        let y = recorder.gemm(1.0, &x, x.t()).unwrap();
        let z = recorder.gemm(1.0, &y, &x).unwrap();
        let (y, z) = (recorder.download(&y).unwrap(), recorder.download(&z).unwrap());
        let planned = recorder.plan().steps.len() as u64 - 2;
        let submission = recorder.submit().unwrap();
        let counters = submission.counters();
        submission.wait().unwrap();
        assert_eq!(counters.dispatches, planned);
        Some((counters.dispatches, counters.submissions, y.wait().unwrap(), z.wait().unwrap()))
    };
    // Two million flops each, at 2 10^11 a second.
    let (Some(whole), Some(cut)) = (products(Duration::from_secs(1)), products(Duration::from_micros(1))) else {
        return;
    };
    assert_eq!((whole.0, whole.1), (2, 1));
    assert!(cut.0 > 4 && cut.1 > 4 && cut.1 <= cut.0, "{} dispatches, {} submissions", cut.0, cut.1);
    assert_eq!((whole.2, whole.3), (cut.2, cut.3));
}

#[test]
fn a_large_upload_arrives_in_parts() {
    let Some(gpu) = open(&GpuOptions::default()) else { return };
    let same = |x: &[i8], rows, cols| {
        let on_device = gpu.upload(MatRef::new(x, rows, cols).unwrap()).unwrap();
        let mut recorder = gpu.record();
        let back = recorder.download(&on_device).unwrap();
        recorder.submit().unwrap();
        assert!(back.wait().unwrap() == x);
    };
    let data: Vec<i8> = (0..80_000_003_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as i8).collect();
    // Rows of whole words, which lie one after the other, and others.
    same(&data[..80_000_000], 40, 2_000_000);
    same(&data[..40 * 1_000_003], 40, 1_000_003);
}

#[test]
fn what_is_kept_for_reuse_is_what_was_used_last() {
    let Some(gpu) = open(&GpuOptions { pool_bytes: 1024, ..GpuOptions::default() }) else { return };
    let upload = |words: usize| gpu.upload(MatRef::from_row(&vec![0_u32; words])).unwrap();
    drop([64; 4].map(upload));
    assert_eq!(gpu.memory(), (0, 1024));
    drop(upload(128));
    assert_eq!(gpu.memory(), (0, 1024));
    let again = upload(128);
    assert_eq!(gpu.memory(), (512, 512));
    drop(again);
    // More than is kept.
    drop(upload(512));
    assert_eq!(gpu.memory(), (0, 1024));
}

#[test]
fn a_device_with_few_bindings() {
    if open(&GpuOptions::default()).is_none() {
        return;
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default())).unwrap();
    let mut limits = adapter.limits();
    limits.max_storage_buffers_per_shader_stage = 3;
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..wgpu::DeviceDescriptor::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    let gpu = Gpu::from_parts(device, queue, &GpuOptions::default());
    let x = gpu.upload(MatRef::from_row(&[3.0_f32])).unwrap();
    let mut recorder = gpu.record();
    // Three matrices, and four.
    recorder.gemm(1.0, &x, &x).unwrap();
    let refused = recorder.adam(&x, &x, 0.0).unwrap_err();
    assert!(matches!(refused, Error::Limit { needed: 4, limit: 3, .. }), "{refused}");
}

/// The first polynomials are recorded, and cut, before there is no memory for the next; what was recorded before is left
/// as it was.
#[test]
fn an_operation_that_fails_after_a_cut_is_taken_back() {
    let (watchdog, max_memory) = (Duration::from_nanos(1), Some(1 << 18));
    let Some(gpu) = open(&GpuOptions { watchdog, max_memory, ..GpuOptions::default() }) else { return };
    let sjlt = Sjlt::new(200, 20, 1, Stream::new(0, "device")).unwrap();
    let row: Vec<f32> = (0..200).map(|i| i as f32).collect();
    let (row, g) = (MatRef::from_row(&row), vec![1.0_f32; 64 * 64]);
    let (x, g) = (gpu.upload(row).unwrap(), gpu.upload(MatRef::new(&g, 64, 64).unwrap()).unwrap());
    let mut recorder = gpu.record();
    let table = recorder.draw_sjlt(&sjlt).unwrap();
    let recorded = |recorder: &Recorder| (recorder.counters(), recorder.cost(), recorder.plan().steps.len());
    let before = recorded(&recorder);
    let refused = recorder.newton_schulz(&g, &[[1.5, -0.5, 0.0]; 20], 1e-7).unwrap_err();
    assert!(matches!(refused, Error::OutOfMemory { .. }), "{refused}");
    assert_eq!(recorded(&recorder), before);
    let y = recorder.sjlt(&table, &x).unwrap();
    let y = recorder.download(&y).unwrap();
    recorder.submit().unwrap();
    assert_eq!(y.wait().unwrap(), apply_alloc(&sjlt, row).unwrap());
}
