// A stage's file as a runtime opens it, and the runtimes that this program was built with.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace edgefuse {

// An array in C order. `data` holds the elements as the machine stores them (little-endian ones are assumed).
struct Tensor {
  std::string dtype;  // float32, uint8 or int32
  std::vector<std::int64_t> shape;
  std::string data;
};

using Values = std::map<std::string, Tensor>;

std::size_t width(const std::string& dtype);                    // of an element, in bytes
std::size_t elements(const std::vector<std::int64_t>& shape);   // throws where they are too many

// How a port of a stage is called and typed in its file.
struct Binding {
  std::string port, tensor, dtype;
  std::vector<std::int64_t> shape;  // -1: any size
};

// An opened file. `run` takes and gives arrays by the names that the file gives them.
class StageFile {
 public:
  virtual ~StageFile() = default;
  virtual Values run(const Values& feeds) = 0;
};

// A runtime: the end of the names of files that it opens, and how it opens one from its bytes.
struct Opener {
  std::string suffix;
  std::function<std::unique_ptr<StageFile>(const std::string& data, const std::vector<Binding>& inputs,
                                           const std::vector<Binding>& outputs, int threads)>
      open;
};

// The runtimes by backend. A source file that opens files of one adds itself (onnx_stage.cpp): what is not compiled in
// is not there.
std::map<std::string, Opener>& openers();

}  // namespace edgefuse
