// An ONNX model can name other files, which ONNX Runtime then opens. This walks its protobuf encoding along the fields
// of onnx.proto in which a tensor or a node can lie, and refuses both data outside of the model and compiled engines.
#include "bundle.hpp"

namespace edgefuse {
namespace {

enum Kind { kModel, kTraining, kGraph, kFunction, kNode, kAttribute, kSparse, kTensor };

// Kind of message -> number of a field -> kind of the message in it (onnx.proto, IR version 13).
const std::map<Kind, std::map<std::uint64_t, Kind>> kNested = {
    {kModel, {{7, kGraph}, {20, kTraining}, {25, kFunction}}},
    {kTraining, {{1, kGraph}, {2, kGraph}}},
    {kGraph, {{1, kNode}, {5, kTensor}, {15, kSparse}}},
    {kFunction, {{7, kNode}, {11, kAttribute}}},
    {kNode, {{5, kAttribute}}},
    {kAttribute, {{5, kTensor}, {6, kGraph}, {10, kTensor}, {11, kGraph}, {22, kSparse}, {23, kSparse}}},
    {kSparse, {{1, kTensor}, {2, kTensor}}},
    {kTensor, {}}};

class Walk {
 public:
  Walk(const std::string& name, const std::string& data) : name_(name), data_(data) {}

  void message(Kind kind, std::size_t at, std::size_t end, int depth) {
    if (depth > 64) refuse("is nested too deeply");
    while (at < end) {
      const auto tag = varint(at, end);
      const auto field = tag >> 3;
      if (field == 0 || tag > 0xffffffff || --budget_ == 0) refuse("is malformed");
      std::size_t begin = at;
      std::uint64_t value = 0;
      switch (tag & 7) {
        case 0: value = varint(at, end); break;
        case 1: at += 8; break;
        case 2: {
          const auto size = varint(at, end);
          if (size > end - at) refuse("is cut short inside a field");
          begin = at;
          at += size;
          break;
        }
        case 5: at += 4; break;
        default: refuse("is malformed");
      }
      if (at > end) refuse("is cut short inside a field");
      const auto nested = kNested.at(kind).find(field);
      if ((tag & 7) == 2 && nested != kNested.at(kind).end()) {
        message(nested->second, begin, at, depth + 1);
      } else if (kind == kTensor && (field == 13 || (field == 14 && value != 0))) {
        refuse("has a tensor whose data lies outside of the file");
      } else if (kind == kNode && field == 4 && data_.compare(begin, at - begin, "EPContext") == 0) {
        refuse("has a node 'EPContext', which loads a compiled engine");
      }
    }
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const { throw Error("the ONNX file '" + name_ + "' " + why); }

  std::uint64_t varint(std::size_t& at, std::size_t end) const {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (at >= end) refuse("is cut short inside a field");
      const auto byte = std::uint8_t(data_[at++]);
      if (shift < 64) value |= std::uint64_t(byte & 127) << shift;
      if (byte < 128) return value;
    }
    refuse("is malformed");
  }

  const std::string& name_;
  const std::string& data_;
  int budget_ = 4'000'000;
};

}  // namespace

void refuse_external_data(const std::string& name, const std::string& model) {
  Walk(name, model).message(kModel, 0, model.size(), 0);
}

}  // namespace edgefuse
