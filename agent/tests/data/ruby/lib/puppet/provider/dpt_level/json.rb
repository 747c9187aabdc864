# frozen_string_literal: true

require 'json'

# Notes in a file beside each store when it was prefetched, flushed and refreshed.
Puppet::Type.type(:dpt_level).provide(:json) do
  mk_resource_methods

  attr_reader :steps

  def self.prefetch(resources)
    resources.each do |name, resource|
      store = resource[:store]
      found = File.exist?(store) ? JSON.parse(File.read(store)).transform_keys(&:to_sym) : {}
      resource.provider = new(found.merge(name: name, ensure: found.empty? ? :absent : :present))
      resource.provider.note("prefetch of #{resources.size}")
    end
  end

  def note(text)
    log = "#{resource[:store]}.log"
    File.open(log, 'a') { |file| file.puts(text) } if File.directory?(File.dirname(log))
  end

  def exists?
    @property_hash[:ensure] == :present
  end

  def create
    %i[value marks secret mood].each { |name| @property_hash[name] = resource[name] if resource[name] }
    @property_hash[:ensure] = :present
  end

  def destroy
    @property_hash.clear
  end

  def value
    raise Puppet::Error, "the level of #{resource[:name]} cannot be read" if @property_hash[:value] == 12

    @property_hash[:value] || :absent
  end

  def value=(wanted)
    raise Puppet::Error, 'thirteen brings bad luck' if wanted == 13

    # A library that talks.
    puts 'x' * 1000
    @steps = (wanted - @property_hash[:value].to_i).abs
    @property_hash[:value] = wanted
  end

  def flush
    note('flush')
    raise Puppet::Error, 'the disk is full of water' if @property_hash[:value] == 14

    kept = %i[value marks secret mood].to_h { |name| [name, @property_hash[name]] }.compact
    return File.delete(resource[:store]) if @property_hash.empty?

    File.write(resource[:store], JSON.generate(kept))
  end
end
