//! Every variant of every shader, read and translated by everyone who may have to.

use std::io::Write;
use std::process::{Command, Stdio};

use ascribe_gpu::kernel::{Access, KERNELS, Kernel};
use ascribe_gpu::shader::{SUBGROUPS, Target, preprocess};
use naga::back::{glsl, hlsl, msl, spv, wgsl};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage, StorageAccess};

fn validate(module: &Module) -> ModuleInfo {
    Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32)
        .validate(module)
        .expect("valid")
}

/// The storage that the shader declares, in the order of its bindings, is what the kernel declares.
fn check_bindings(kernel: &Kernel, module: &Module) {
    let mut declared = vec![None; kernel.bindings.len() + 1];
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = &variable.binding else { continue };
        assert_eq!(binding.group, 0, "{}", kernel.name);
        declared[binding.binding as usize] = Some(variable.space);
    }
    assert_eq!(declared[0], Some(AddressSpace::Uniform), "{}", kernel.name);
    for (i, access) in kernel.bindings.iter().enumerate() {
        let access = match access {
            Access::Read => StorageAccess::LOAD,
            Access::Write => StorageAccess::LOAD | StorageAccess::STORE,
        };
        assert_eq!(declared[i + 1], Some(AddressSpace::Storage { access }), "{} binding {}", kernel.name, i + 1);
    }
}

/// Hands `text` to a program if it is installed.
fn ask(program: &str, arguments: &[&str], input: &[u8], what: &str) -> bool {
    let spawned = Command::new(program).args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else { return false };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

fn translate(kernel: &Kernel, flags: &[&str], constants: &[(&str, u32)]) -> Vec<u8> {
    let what = format!("{} {flags:?} {constants:?}", kernel.name);
    let text = kernel.shader(flags, Target::Naga).expect("assembles");
    let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{what}: {}", e.emit_to_string(&text)));
    let info = validate(&module);
    check_bindings(kernel, &module);
    let constants = constants.iter().map(|(name, value)| ((*name).to_owned(), f64::from(*value))).collect();
    let (module, info) =
        naga::back::pipeline_constants::process_overrides(&module, &info, None, &constants).expect("overrides");
    let (stage, entry) = (ShaderStage::Compute, "main".to_owned());
    let spirv = spv::PipelineOptions { shader_stage: stage, entry_point: entry.clone() };
    // SPIR-V 1.3 has subgroups, as Vulkan 1.1.
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    let spirv = spv::write_vec(&module, &info, &options, Some(&spirv)).expect("SPIR-V");
    let options = msl::Options { lang_version: (2, 4), ..msl::Options::default() };
    msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).expect("MSL");
    // Of both compilers for DX12; the old one knows no subgroups.
    for shader_model in [hlsl::ShaderModel::V6_0, hlsl::ShaderModel::V5_1] {
        if shader_model == hlsl::ShaderModel::V6_0 || !flags.contains(&SUBGROUPS) {
            let options = hlsl::Options { shader_model, ..hlsl::Options::default() };
            let pipeline = hlsl::PipelineOptions::default();
            let written = hlsl::Writer::new(String::new(), &options, &pipeline).write(&module, &info, None);
            written.unwrap_or_else(|e| panic!("{what}: HLSL {shader_model:?}: {e}"));
        }
    }
    let options = glsl::Options { version: glsl::Version::Desktop(430), ..glsl::Options::default() };
    let pipeline = glsl::PipelineOptions { shader_stage: stage, entry_point: entry, multiview: None };
    let mut out = String::new();
    let policies = naga::proc::BoundsCheckPolicies::default();
    let writer = glsl::Writer::new(&mut out, &module, &info, &options, &pipeline, policies);
    writer.and_then(|mut writer| writer.write()).unwrap_or_else(|e| panic!("{what}: GLSL: {e}"));
    wgsl::write_string(&module, &info, wgsl::WriterFlags::empty()).expect("WGSL");
    spirv.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn every_variant_translates_to_every_language() {
    let (mut spirv_val, mut tint) = (true, true);
    for kernel in KERNELS {
        for flags in kernel.variants {
            for constants in kernel.constants {
                let spirv = translate(kernel, flags, constants);
                spirv_val &= ask("spirv-val", &["--target-env", "vulkan1.1", "-"], &spirv, kernel.name);
            }
            let text = kernel.shader(flags, Target::Standard).unwrap();
            let path = std::env::temp_dir().join(format!("ascribe-{}-{}.wgsl", kernel.name, flags.join("-")));
            std::fs::write(&path, &text).unwrap();
            tint &= ask("tint", &["--format", "wgsl", "-o", "/dev/null", path.to_str().unwrap()], &[], kernel.name);
            std::fs::remove_file(&path).unwrap();
        }
    }
    for (there, program) in [(spirv_val, "spirv-val"), (tint, "tint")] {
        if !there {
            ascribe_tests::skipped(&format!("{program} is not installed"));
        }
    }
}

#[test]
fn no_shader_is_forgotten() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../gpu/shaders");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".wgsl").map(str::to_owned))
        .collect();
    files.sort();
    let mut kernels: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
    kernels.sort_unstable();
    assert_eq!(files, kernels);
}

#[test]
fn directives() {
    let import = |name: &str| match name {
        "a" => Some("#import b\na\n"),
        "b" => Some("#import a\nb\n"),
        "broken" => Some("\n#endif\n"),
        _ => None,
    };
    let run = |text: &'static str| preprocess("test", text, &["F"], &import).map_err(|e| (e.file, e.line));
    assert_eq!(run("#import a\n#import b\n#import test\n").unwrap(), "b\na\n");
    assert_eq!(
        run("#ifdef F\n1\n#ifdef G\n2\n#else\n3\n#endif\n#else\n4\n#ifdef F\n5\n#endif\n#endif").unwrap(),
        "1\n3\n"
    );
    assert_eq!(run("  #ifndef F\n#import nothing\n#else\nx#\n#endif\n").unwrap(), "x#\n");
    let at = |line| Err(("test".to_owned(), line));
    for (text, line) in [
        ("#else", 1),
        ("x\n#endif", 2),
        ("#ifdef F\n#else\n#else\n#endif", 3),
        ("\n#ifdef F", 2),
        ("#ifdef", 1),
        ("#ifdef F G", 1),
        ("#import nothing", 1),
        ("#define X", 1),
        ("#", 1),
    ] {
        assert_eq!(run(text), at(line), "{text}");
    }
    assert_eq!(run("#import broken"), Err(("broken".to_owned(), 2)));
}
