//! `/proc/cpuinfo`, on x86 and on Arm.

use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Processor {
    pub(crate) index: usize,
    /// Package and core within it: x86 only.
    pub(crate) core: (Option<usize>, Option<usize>),
    /// Implementer and part number: Arm only.
    pub(crate) part: Option<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CpuInfo {
    pub(crate) name: Option<String>,
    /// Features of the first processor, as the system names them.
    pub(crate) features: BTreeSet<String>,
    pub(crate) processors: Vec<Processor>,
    implementer: Option<String>,
}

impl CpuInfo {
    /// Parses the text. Unknown lines are skipped.
    pub(crate) fn parse(text: &str) -> Self {
        let mut info = Self::default();
        for line in text.lines() {
            if let Some((key, value)) = line.split_once(':') {
                info.apply(key.trim(), value.trim());
            }
        }
        if info.name.is_none() {
            let part = info.processors.iter().find_map(|p| p.part.as_ref());
            info.name = part.map(|(by, part)| format!("part {part} of implementer {by}"));
        }
        info
    }

    fn apply(&mut self, key: &str, value: &str) {
        match key {
            "processor" => {
                if let Ok(index) = value.parse() {
                    self.processors.push(Processor { index, ..Processor::default() });
                }
            }
            "model name" | "Model" | "cpu model" | "cpu" => {
                self.name.get_or_insert_with(|| value.to_owned());
            }
            "flags" | "Features" if self.features.is_empty() => {
                self.features = value.split_whitespace().map(str::to_owned).collect();
            }
            "CPU implementer" => self.implementer = Some(value.to_owned()),
            _ => {
                let Some(last) = self.processors.last_mut() else { return };
                match key {
                    "physical id" => last.core.0 = value.parse().ok(),
                    "core id" => last.core.1 = value.parse().ok(),
                    "CPU part" => {
                        last.part = self.implementer.clone().map(|by| (by, value.to_owned()));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether the processor reports a hypervisor; `None` where processors do not report it (Arm).
    pub(crate) fn hypervisor(&self) -> Option<bool> {
        // Only x86 has this flag, and every x86 processor that runs 64-bit programs has `lm`.
        self.features.contains("lm").then(|| self.features.contains("hypervisor"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_texts_name_no_processor() {
        for text in
            ["", ":", "processor", "processor : x\ncore id : 3", "core id : 1\n: :\n\0", "flags :"]
        {
            let info = CpuInfo::parse(text);
            assert_eq!((info.processors.len(), info.hypervisor(), info.name), (0, None, None));
        }
    }
}
