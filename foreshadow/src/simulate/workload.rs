//! What is played: demand of every instance over time, and the hosts it is played on.

use std::io::Read;

use domain::{InstanceId, Priority, Resource};
use forecaster::{Negative, read_trace};

use crate::error::Failure;

/// Demand per resource, instance and step; in the trace's units. Gaps repeat the value before.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its name, for the tables.
    pub name: String,
    /// The instances.
    pub ids: Vec<InstanceId>,
    /// Resources that the trace has.
    pub resources: Vec<Resource>,
    /// Steps.
    pub steps: usize,
    /// Length of a step, in milliseconds.
    pub step_ms: u64,
    /// Per resource (in the order of [`Resource::ALL`]), then instance-major: `[instance][step]`.
    demand: [Vec<f32>; 4],
    /// What was measured, `NaN` in gaps.
    measured: [Vec<f32>; 4],
    /// Memory to copy, in bytes.
    pub memory: Vec<u64>,
    /// What each instance is worth.
    pub priority: Vec<Priority>,
}

/// Memory sizes of the consolidation literature's instance types, in MiB (Beloglazov, Buyya,
/// CCPE 2012; CloudSim's `Constants`).
const TYPES_MIB: [u64; 4] = [870, 1_740, 1_740, 613];

impl Workload {
    /// Reads a trace: `instance,step,cpu,memory,net_rx,net_tx`.
    ///
    /// # Errors
    /// [`Failure::Config`] naming line and field.
    pub fn read(name: &str, from: impl Read, step_ms: u64) -> Result<Self, Failure> {
        let trace = read_trace(from, Negative::Gap)
            .map_err(|error| Failure::Config(format!("{name}: {error}")))?;
        let steps = trace.values().map(Vec::len).max().unwrap_or(0);
        if steps < 2 {
            return Err(Failure::Config(format!(
                "{name}: the trace has {steps} steps; at least 2 are needed"
            )));
        }
        let mut ids: Vec<InstanceId> = trace.keys().map(|(id, _)| id.clone()).collect();
        ids.dedup();
        let mut resources = Vec::new();
        let mut demand: [Vec<f32>; 4] = std::array::from_fn(|_| vec![0.0; ids.len() * steps]);
        let mut measured: [Vec<f32>; 4] =
            std::array::from_fn(|_| vec![f32::NAN; ids.len() * steps]);
        for (resource, (demand, measured)) in Resource::ALL
            .into_iter()
            .zip(demand.iter_mut().zip(&mut measured))
        {
            let mut any = false;
            for (index, id) in ids.iter().enumerate() {
                let Some(values) = trace.get(&(id.clone(), resource)) else {
                    continue;
                };
                any = true;
                let mut last = values.iter().flatten().next().copied().unwrap_or(0.0);
                // A series that begins late is aligned with the others at its end.
                let first = steps - values.len();
                for (step, value) in values.iter().enumerate() {
                    last = value.unwrap_or(last);
                    demand[index * steps + first + step] = narrow(last);
                    measured[index * steps + first + step] = value.map_or(f32::NAN, narrow);
                }
            }
            if any {
                resources.push(resource);
            }
        }
        let memory = (0..ids.len())
            .map(|i| memory_of(&demand[1], i, steps))
            .collect();
        let priority = (0..ids.len())
            .map(|index| match mixed(index as u64, 3) % 5 {
                0 => Priority::Low,
                4 => Priority::High,
                _ => Priority::Normal,
            })
            .collect();
        Ok(Self {
            name: name.to_owned(),
            ids,
            resources,
            steps,
            step_ms,
            demand,
            measured,
            memory,
            priority,
        })
    }

    /// Demand of an instance in a step.
    pub fn at(&self, instance: usize, resource: Resource, step: usize) -> f64 {
        f64::from(self.demand[resource as usize][instance * self.steps + step])
    }

    /// What was measured until (without) a step.
    pub fn measured(&self, instance: usize, resource: Resource, until: usize) -> &[f32] {
        let from = instance * self.steps;
        &self.measured[resource as usize][from..from + until]
    }

    /// Demand of an instance in some steps.
    pub fn series(
        &self,
        instance: usize,
        resource: Resource,
        steps: std::ops::Range<usize>,
    ) -> &[f32] {
        let from = instance * self.steps;
        &self.demand[resource as usize][from + steps.start..from + steps.end]
    }
}

/// Memory to copy: the most the instance ever used, or that of its type where that is not known.
fn memory_of(memory: &[f32], index: usize, steps: usize) -> u64 {
    let most = memory[index * steps..(index + 1) * steps]
        .iter()
        .copied()
        .fold(0.0_f32, f32::max);
    if most > 0.0 {
        whole(f64::from(most))
    } else {
        TYPES_MIB[index % TYPES_MIB.len()] * 1024 * 1024
    }
}

/// A number without sign as a whole one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float's cast saturates"
)]
pub fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[expect(clippy::cast_possible_truncation, reason = "seven digits are enough")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// Mixes numbers well (SplitMix64; Steele, Lea, Flood, OOPSLA 2014).
pub const fn mixed(value: u64, seed: u64) -> u64 {
    let mut z = value
        .wrapping_add(seed.wrapping_mul(0xD1B5_4A32_D192_ED03))
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number in [0, 1) from two numbers.
pub fn chance(value: u64, seed: u64) -> f64 {
    (mixed(value, seed) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_repeat_the_value_before_and_are_not_measured() {
        let text = "instance,step,cpu\na,0,5\na,2,7\nb,0,1\nb,1,2\nb,2,3\n";
        let workload = Workload::read("t", text.as_bytes(), 300_000).unwrap();
        assert_eq!(workload.series(0, Resource::Cpu, 0..3), [5.0, 5.0, 7.0]);
        assert!(workload.measured(0, Resource::Cpu, 3)[1].is_nan());
        assert_eq!(workload.resources, [Resource::Cpu]);
    }

    #[test]
    fn a_trace_whose_times_go_back_or_that_is_no_number_is_refused_with_its_line() {
        for (text, line) in [
            ("instance,step,cpu\na,3,1\na,2,1\n", "line 3"),
            ("instance,step,cpu\na,0,x\n", "line 2"),
            ("name,step\n", "line 1"),
        ] {
            let error = Workload::read("t", text.as_bytes(), 1)
                .unwrap_err()
                .to_string();
            assert!(error.contains(line), "{error}");
        }
        let error = Workload::read("t", &b"instance,step,cpu\na,0,1\n"[..], 1).unwrap_err();
        assert!(error.to_string().contains("has 1 steps"), "{error}");
    }
}
