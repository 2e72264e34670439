// A rung of a bundle, opened with ONNX Runtime: raw inputs in, the model's outputs out.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <optional>

#include "bundle.hpp"

namespace edgefuse {

// An array in C order. `data` holds the elements as the machine stores them (little-endian ones are assumed).
struct Tensor {
  std::string dtype;  // float32, uint8 or int32
  std::vector<std::int64_t> shape;
  std::string data;
};

// The tensor `name` of a modality, as a stage's source spells it: `image.pixels`, `text.length`.
using Values = std::map<std::string, Tensor>;

class Pipeline {
 public:
  // `rung`: the operating point; the bundle's default if empty.
  explicit Pipeline(const Bundle& bundle, const std::string& rung = "", int threads = 1);

  // Turns decoded input into the tensors of a modality:
  //   image   uint8 [height, width, channels] of the size that the modality asks for (decode and resize before)
  //   audio   float32 mono samples in [-1, 1] at its sample rate; cut or padded here
  //   text    int32 token ids with special tokens, from its tokenizer; cut or padded here
  //   tensor  the elements of its one tensor, of the largest shape
  Values preprocess(const std::string& modality, std::string raw) const;

  // Predicts from the tensors of the modalities in `present`, and returns the outputs by name. What is absent is zeros.
  Values run(const Values& values, const std::vector<std::string>& present);

 private:
  struct Port {
    std::string name, key;    // in the stage; in the pool of values
    Tensor zeros;             // of its type and largest shape
    std::string tensor;       // in the file
    std::vector<std::int64_t> file_shape;  // -1: any size
    std::string file_dtype;
    std::string kind;         // of an output: feature, result or state
  };
  struct Stage {
    std::string name, modality;
    std::vector<Port> inputs, outputs;
    Ort::Session session;
  };

  static Ort::Env silent_env();
  Stage open(const Bundle& bundle, const json& stage, const std::string& candidate);
  Values compute(Stage& stage, const Values& pool);

  json model_;
  Ort::Env env_ = silent_env();
  Ort::SessionOptions options_;
  std::vector<Stage> stages_;
  Values states_;  // outputs of the last run that the next one takes
};

}  // namespace edgefuse
