// The backend `onnx`: stages in ONNX Runtime.
#include <onnxruntime_cxx_api.h>

#include <cstdlib>

#include "bundle.hpp"
#include "stage_file.hpp"

namespace edgefuse {
namespace {

const std::map<std::string, ONNXTensorElementDataType> kTypes = {{"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
                                                                 {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
                                                                 {"int32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32}};

Ort::Env silent_env() {
  // Newer libraries report usage to their maker; they look at this when the environment is made.
  setenv("ORT_DISABLE_TELEMETRY", "1", /*overwrite=*/0);
  return {ORT_LOGGING_LEVEL_ERROR, "edgefuse"};
}

Ort::SessionOptions options(int threads) {
  Ort::SessionOptions made;
  made.SetIntraOpNumThreads(threads);
  made.SetInterOpNumThreads(1);
  made.AddConfigEntry("session.intra_op.allow_spinning", "0");  // idle threads would drain a battery
  made.AddConfigEntry("session.set_denormal_as_zero", "1");     // features near zero would be slow
  return made;
}

[[noreturn]] void refuse(const Ort::Exception& error) { throw Error(std::string("ONNX Runtime says: ") + error.what()); }

class OnnxStage : public StageFile {
 public:
  OnnxStage(const std::string& data, std::vector<Binding> outputs, int threads) try
      : outputs_(std::move(outputs)), session_(env(), data.data(), data.size(), options(threads)) {
  } catch (const Ort::Exception& error) {
    refuse(error);
  }

  Values run(const Values& feeds) override try {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<Ort::Value> inputs;
    std::vector<const char*> input_names, output_names;
    for (const auto& [name, feed] : feeds) {  // ONNX Runtime reads from these very buffers, and writes to none of them
      inputs.push_back(Ort::Value::CreateTensor(memory, const_cast<char*>(feed.data.data()), feed.data.size(),
                                                feed.shape.data(), feed.shape.size(), kTypes.at(feed.dtype)));
      input_names.push_back(name.c_str());
    }
    for (const auto& output : outputs_) output_names.push_back(output.tensor.c_str());
    auto answers = session_.Run(Ort::RunOptions{}, input_names.data(), inputs.data(), inputs.size(),
                                output_names.data(), output_names.size());
    Values results;
    for (std::size_t index = 0; index < answers.size(); ++index) {
      const auto about = answers[index].GetTensorTypeAndShapeInfo();
      const auto& output = outputs_[index];
      const auto type = kTypes.find(output.dtype);
      if (type == kTypes.end() || type->second != about.GetElementType())
        throw Error("the output '" + output.port + "' of a stage is not of the type " + output.dtype);
      const auto shape = about.GetShape();
      const auto* data = static_cast<const char*>(answers[index].GetTensorRawData());
      results[output.tensor] = {output.dtype, shape, std::string(data, elements(shape) * width(output.dtype))};
    }
    return results;
  } catch (const Ort::Exception& error) {
    refuse(error);
  }

 private:
  static Ort::Env& env() {
    static Ort::Env made = silent_env();
    return made;
  }

  std::vector<Binding> outputs_;
  Ort::Session session_;
};

const bool added = openers().emplace("onnx", Opener{".onnx", [](const std::string& data, const std::vector<Binding>&,
                                                                const std::vector<Binding>& outputs, int threads) {
                                       return std::make_unique<OnnxStage>(data, outputs, threads);
                                     }}).second;

}  // namespace
}  // namespace edgefuse
