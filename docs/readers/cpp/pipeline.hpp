// A rung of a bundle, opened: raw inputs in, the model's outputs out.
#pragma once

#include "bundle.hpp"
#include "stage_file.hpp"

namespace edgefuse {

// Values are called as a stage's source spells them: the tensor of a modality `image.pixels`, its length `text.length`.
class Pipeline {
 public:
  // `rung`: the operating point; the bundle's default if empty. Each stage is opened by the opener of its backend.
  explicit Pipeline(const Bundle& bundle, const std::string& rung = "", int threads = 1);

  // Turns decoded input into the tensors of a modality:
  //   image   uint8 [height, width, channels] of the size that the modality asks for (decode and resize before)
  //   audio   float32 mono samples in [-1, 1] at its sample rate; cut or padded here
  //   text    int32 token ids with special tokens, from its tokenizer; cut or padded here
  //   video   uint8 [frames, height, width, channels] at its rate and size; cut or padded here
  //   tensor  the elements of its one tensor, of the largest shape
  Values preprocess(const std::string& modality, std::string raw) const;

  // Predicts from the tensors of the modalities in `present`, and returns the outputs by name. What is absent is zeros.
  Values run(const Values& values, const std::vector<std::string>& present);

 private:
  struct Port {
    std::string name, key;    // in the stage; in the pool of values
    Tensor zeros;             // of its type and largest shape
    Binding binding;          // in the file
    std::string kind;         // of an output: feature, result or state
  };
  struct Stage {
    std::string name, modality;
    std::vector<Port> inputs, outputs;
    std::unique_ptr<StageFile> file;
  };

  Stage open(const Bundle& bundle, const json& stage, const std::string& candidate, int threads);
  Values compute(Stage& stage, const Values& pool);

  json model_;
  std::vector<Stage> stages_;
  Values states_;  // outputs of the last run that the next one takes
};

}  // namespace edgefuse
