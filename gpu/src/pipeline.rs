//! Compiled kernels, kept for the next use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::capabilities::PARAMS_BYTES;
use crate::device::Shared;
use crate::error::{Error, check_limit};
use crate::kernel::{Access, Kernel};
use crate::shader::Target;

/// A compiled kernel, and as what it was compiled.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) kernel: &'static Kernel,
    pub(crate) flags: Vec<&'static str>,
    pub(crate) constants: Vec<(&'static str, u32)>,
    pub(crate) raw: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

/// A kernel with the flags and override constants that it was compiled for.
type Key = (&'static str, Vec<&'static str>, Vec<(&'static str, u32)>);

/// All that were compiled for a device.
#[derive(Debug, Default)]
pub(crate) struct Pipelines(Mutex<HashMap<Key, Arc<Pipeline>>>);

impl Shared {
    /// The kernel in that variant; compiled on first use, which takes as long as thousands of dispatches.
    pub(crate) fn pipeline(
        &self,
        kernel: &'static Kernel,
        flags: &[&'static str],
        constants: &[(&'static str, u32)],
    ) -> Result<Arc<Pipeline>, Error> {
        // Held while compiling, so that no two threads compile the same. Nothing in it is ever half done.
        let mut known = self.pipelines.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kernel.name, flags.to_vec(), constants.to_vec());
        if let Some(pipeline) = known.get(&key) {
            return Ok(Arc::clone(pipeline));
        }
        let most = self.capabilities.max_bindings;
        check_limit("matrices that a kernel binds", kernel.bindings.len() as u64, most.into())?;
        let text = kernel.shader(flags, Target::Naga)?;
        let pipeline = Arc::new(self.scoped(0, || self.compile(kernel, &text, flags, constants))?);
        known.insert(key, Arc::clone(&pipeline));
        Ok(pipeline)
    }

    fn compile(
        &self,
        kernel: &'static Kernel,
        text: &str,
        flags: &[&'static str],
        constants: &[(&'static str, u32)],
    ) -> Pipeline {
        let (device, label) = (&self.device, Some(kernel.name));
        let source = wgpu::ShaderSource::Wgsl(text.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        let entry = |binding, ty, has_dynamic_offset, bytes| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: bytes },
            count: None,
        };
        let params = entry(0, wgpu::BufferBindingType::Uniform, true, wgpu::BufferSize::new(PARAMS_BYTES));
        let storage = kernel.bindings.iter().zip(1..).map(|(&access, binding)| {
            let read_only = access == Access::Read;
            entry(binding, wgpu::BufferBindingType::Storage { read_only }, false, None)
        });
        let entries: Vec<_> = std::iter::once(params).chain(storage).collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let values: Vec<_> = constants.iter().map(|&(name, value)| (name, f64::from(value))).collect();
        let raw = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &values,
                // Kernels write what they read.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        Pipeline { kernel, flags: flags.to_vec(), constants: constants.to_vec(), raw, layout }
    }
}
