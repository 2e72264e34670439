// The archive: a zip file of stored members that can be read in one way only (PKWARE APPNOTE.TXT 6.3.10).
#include <algorithm>
#include <fstream>

#include "bundle.hpp"

namespace edgefuse {
namespace {

constexpr std::size_t kEnd = 22, kEntry = 46, kLocal = 30;

[[noreturn]] void refuse(const std::string& why) { throw Error("the archive is not a bundle: " + why); }

std::uint32_t number(const std::string& bytes, std::size_t at, int size) {
  std::uint32_t value = 0;
  for (int i = size - 1; i >= 0; --i) value = value << 8 | std::uint8_t(bytes.at(at + i));
  return value;
}

struct Member {
  std::string name, repeated;  // `repeated`: the bytes that the local header has in common with the central entry
  std::uint64_t offset, size;
};

class Archive : public Storage {
 public:
  explicit Archive(const std::string& path) : file_(path, std::ios::binary | std::ios::ate) {
    if (!file_) refuse("it cannot be opened");
    const std::uint64_t size = file_.tellg();
    if (size < kEnd || size > 4'000'000'000) refuse("its size is " + std::to_string(size) + " bytes");
    const auto end = bytes(size - kEnd, kEnd);
    const std::uint64_t count = number(end, 10, 2), length = number(end, 12, 4), start = number(end, 16, 4);
    if (number(end, 0, 4) != 0x06054b50 || number(end, 20, 2) != 0) refuse("it does not end with a plain end record");
    if (number(end, 4, 4) != 0 || number(end, 8, 2) != count) refuse("it spans several disks");
    if (start + length != size - kEnd || count > 4096) refuse("its central directory is not where it should be");
    auto members = directory(bytes(start, length), count);
    std::sort(members.begin(), members.end(), [](auto& a, auto& b) { return a.offset < b.offset; });
    std::uint64_t next = 0;
    for (const auto& member : members) {
      if (member.offset != next) refuse("its members do not lie side by side");
      next = check_local(member) + member.size;
      if (next > start || !sizes_.emplace(member.name, member.size).second) refuse("'" + member.name + "' overlaps");
      begins_[member.name] = next - member.size;
    }
    if (next != start) refuse("there are bytes between its members and its directory");
  }

  std::string read(const std::string& path) const override { return bytes(begins_.at(path), sizes_.at(path)); }

 private:
  std::string bytes(std::uint64_t at, std::uint64_t size) const {
    std::string data(size, '\0');
    file_.clear();
    if (!file_.seekg(std::streamoff(at)).read(data.data(), std::streamsize(size))) refuse("it is cut short");
    return data;
  }

  static std::vector<Member> directory(const std::string& data, std::uint64_t count) {
    std::vector<Member> members;
    std::size_t at = 0;
    for (std::uint64_t index = 0; index < count; ++index) {
      if (at + kEntry > data.size() || number(data, at, 4) != 0x02014b50) refuse("its directory is malformed");
      const std::size_t name = number(data, at + 28, 2);
      const std::uint32_t size = number(data, at + 24, 4), mode = number(data, at + 38, 4);
      const std::uint32_t unix_type = mode >> 16 & 0xf000;
      const bool plain = (number(data, at + 8, 2) & ~0x0800u) == 0 && number(data, at + 10, 2) == 0 &&
                         number(data, at + 20, 4) == size && size != 0xffffffff && number(data, at + 30, 4) == 0 &&
                         number(data, at + 34, 2) == 0 && (unix_type == 0 || unix_type == 0x8000) && !(mode & 0x18);
      if (!plain || at + kEntry + name > data.size()) refuse("it has a member that is not a plain stored file");
      // Version, flags, method, time, date, CRC, sizes and the length of the name, as the local header repeats them.
      members.push_back({data.substr(at + kEntry, name), data.substr(at + 6, 24), number(data, at + 42, 4), size});
      at += kEntry + name;
    }
    if (at != data.size()) refuse("its directory is longer than its entries");
    return members;
  }

  // Returns where the contents begin.
  std::uint64_t check_local(const Member& member) const {
    const auto header = bytes(member.offset, kLocal + member.name.size());
    if (number(header, 0, 4) != 0x04034b50 || header.substr(4, 24) != member.repeated || number(header, 28, 2) != 0 ||
        header.substr(kLocal) != member.name)
      refuse("the header of '" + member.name + "' differs from its entry");
    return member.offset + header.size();
  }

  mutable std::ifstream file_;
  std::map<std::string, std::uint64_t> begins_;
};

}  // namespace

std::unique_ptr<Storage> open_archive(const std::string& path) { return std::make_unique<Archive>(path); }

}  // namespace edgefuse
