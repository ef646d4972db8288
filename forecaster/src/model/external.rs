//! Models may not point at other files: weights outside of the hashed file escape the hash, and a
//! path may lead out of the folder.

use super::ModelError;

/// The field name of external tensor data in ONNX, as it stands in the file.
const LOCATION: &[u8] = b"location";

/// Refuses a model with external tensor data.
///
/// Tensors name such data by string pairs, of which the first has the key `location`. A wire-level
/// look for that pair suffices: a pair is message field 13 of a tensor, its key field 1.
pub(super) fn refuse(bytes: &[u8]) -> Result<(), ModelError> {
    // Field 1, length 8, "location", then field 2 and the path's length.
    let mut key = vec![0x0a, 0x08];
    key.extend_from_slice(LOCATION);
    key.push(0x12);
    let Some(at) = bytes.windows(key.len()).position(|window| window == key) else {
        return Ok(());
    };
    let after = &bytes[at + key.len()..];
    let length = usize::from(after.first().copied().unwrap_or(0)).min(80);
    let path = after.get(1..=length).unwrap_or_default();
    Err(ModelError::Answer(format!(
        "its weights lie in another file ({:?}); allowed are models in one file",
        String::from_utf8_lossy(path)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_points_at_another_file_is_refused_and_the_path_is_named() {
        let mut model = b"\x08\x08\x12\x04onnx".to_vec();
        assert!(refuse(&model).is_ok());
        model.extend_from_slice(b"\x0a\x08location\x12\x0d../../secrets");
        let error = refuse(&model).unwrap_err().to_string();
        assert!(error.contains("../../secrets"), "{error}");
    }
}
